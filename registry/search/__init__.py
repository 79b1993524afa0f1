"""Search: a language of conditions on versions, and the facts they are held against."""
