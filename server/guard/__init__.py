"""Who may do what: tokens, signed URLs, sessions, and the checks of `Host` and `Origin`.

Decisions are pure (`scopes`, `policy`, `origins`, `cors`, `signing`, `sessions`, `throttle`); what is kept
lies in the server's own folder (`tokens`, `secret`); `guard` puts them before every route, `session` has the
one that browsers sign in by.
"""
