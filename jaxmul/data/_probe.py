"""Whether a server answers, known within seconds: the libraries themselves retry for minutes."""

import threading
import urllib.error
import urllib.request

SECONDS = 3


def unreachable(url: str) -> str:
  """Why a server does not answer, or "". The thread is for name look-ups, which have no timeout."""
  reason = [f"did not answer within {SECONDS} s"]

  def ask():
    try:
      request = urllib.request.Request(url, method="HEAD")
      with urllib.request.urlopen(request, timeout=SECONDS):
        reason[0] = ""
    except urllib.error.HTTPError:
      reason[0] = ""  # It answered.
    except Exception as error:
      reason[0] = f"is not reachable ({error})"

  thread = threading.Thread(target=ask, daemon=True)
  thread.start()
  thread.join(SECONDS)
  return reason[0]
