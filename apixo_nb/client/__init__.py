"""APIXO over HTTP: submit, status, wait, download and balance, for scripts and for everything above.

`protocol` has the rules as generators without I/O, `responses` reads answers without trust, `transport` and
`download` have the connections, `client` joins them.
"""
