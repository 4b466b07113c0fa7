"""`s1 serve`: budget forcing behind an OpenAI-compatible server, and a page to try it by hand.

request -> guard -> body -> HarnessRequest -> Forcing -> slots -> drive -> reply
                                                 ^
                                  POST /v1/thinking/{id} turns it
"""
