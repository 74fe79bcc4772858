// In a notebook's frame a link to a section would load the notebook into the frame.
if (location.protocol === "about:") {
  for (const link of document.querySelectorAll('a[href^="#"]')) {
    link.addEventListener("click", (event) => {
      event.preventDefault();
      const section = document.getElementById(link.hash.slice(1));
      section.tabIndex = -1;
      section.focus();
      section.scrollIntoView();
    });
  }
}
