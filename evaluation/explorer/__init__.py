"""The explorer, `future-l1 explore`: one answer at a time, its latent spans, and what changes with them.

No Dagster.  `session` answers, through the decoder and the interventions of the reports; `app` serves, `export` writes
a page; `page.html`, `page.css` and `page.js` show the same reports in both.
"""
