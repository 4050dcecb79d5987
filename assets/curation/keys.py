"""What makes two rows the same: keys of questions, answers and clips, as polars expressions over millions of rows.

A question's key ignores letter case, punctuation and stop words and keeps every number; an answer's key is what the
grader compares.  A clip is known by its YouTube id and interval in seconds, whatever its file is called.
"""

import polars as pl

# Words that leave a question's meaning alone.  Negations, places and times (not, before, left) are not among them.
_STOP_WORDS = (
    "a an the this that these those it its there is are was were be been being am do does did has have had will would"
    " shall should can could may might of to in on at for by with from as and or so then please"
)
STOP_WORDS = tuple(_STOP_WORDS.split())

_MARKER = r"(?i)(?:frame_\d+\s*)?<image>"
_OPTIONS = r"(?ms)(?:^[ \t]*A\.[ \t]+\S|\bA\)\s).*\z"  # the lettered options that close a question, in either form
_SIGN = r"(^|[\s(=<>])[-\u2212\u2013](\.?[0-9])"  # a minus before a number, not a hyphen or a range
_TOKEN = r"[<>=±×÷+≤≥]*\.?[0-9]+(?:[.,:/][0-9]+)*%?|[\p{L}\p{M}]+|\p{N}"

_FILE = r"(?s)([^/]*)/*$"
_TIME = r"(?:(?:[0-9]{1,4}:)?[0-9]{1,2}:)?[0-9]{1,7}(?:\.[0-9]{1,9})?"
_NAMED = rf"(?s)^([A-Za-z0-9_-]{{11}})(?:-({_TIME})-({_TIME})|[-_].*)?(?:\.[A-Za-z][A-Za-z0-9_]{{1,4}})?$"


def question_stem(question: pl.Expr) -> pl.Expr:
    """The question without the options that close it."""
    return question.str.replace(_OPTIONS, "")


def question_options(question: pl.Expr) -> pl.Expr:
    """The options that close a question; "" for an open one."""
    return question.str.extract(f"({_OPTIONS})").fill_null("")


def question_key(question: pl.Expr) -> pl.Expr:
    """Lower-case words and numbers, one space between them; frame markers and their labels are left out.

    Where nothing but stop words is left they stay, and a question without words or numbers is its own key.
    """
    return question.map_batches(_question_keys, return_dtype=pl.String, is_elementwise=True)


def _question_keys(questions: pl.Series) -> pl.Series:
    plain = _nfkc(questions.str.replace_all(_MARKER, " ")).str.to_lowercase()
    signed = plain.str.replace_all(r"['’]", "").str.replace_all(_SIGN, "${1}minus ${2}")
    words = signed.str.extract_all(_TOKEN)
    keys = words.list.eval(pl.element().filter(~pl.element().is_in(STOP_WORDS))).list.join(" ")
    bare = (keys == "").arg_true()
    said = words.gather(bare).list.join(" ")
    return keys.scatter(bare, said.zip_with(said != "", plain.gather(bare).str.strip_chars()))


def _nfkc(texts: pl.Series) -> pl.Series:
    """Unicode's NFKC form; ASCII has it already, and most text is ASCII."""
    foreign = (texts.str.len_bytes() != texts.str.len_chars()).arg_true()
    return texts.scatter(foreign, texts.gather(foreign).str.normalize("NFKC")) if len(foreign) else texts


def answer_key(answer: pl.Expr) -> pl.Expr:
    """`training.grading.parsers.normalised` over a column, final sigmas apart."""
    folded = answer.map_batches(_nfkc, return_dtype=pl.String, is_elementwise=True).str.to_lowercase()
    folded = folded.str.replace_all("ς", "σ", literal=True)  # Python lowers a final sigma otherwise
    spaced = folded.str.replace_all(r"\s+", " ").str.strip_chars()
    return spaced.str.strip_chars("\"'`").str.strip_chars_end(".!,;:").str.strip_chars()


def answer_in_words(question: pl.Expr, answer: pl.Expr) -> pl.Expr:
    """The text of the option that an answer names by its letter alone; any other answer as it is."""
    letter = answer.str.extract(r"^\s*\(?([A-Z])\)?\.?\s*$")
    after = (pl.lit("\n") + question).str.split(pl.lit("\n") + letter + pl.lit(". ")).list.get(1, null_on_oob=True)
    return pl.coalesce(after.str.split("\n").list.first(), answer)


def with_clip_interval(rows: pl.LazyFrame) -> pl.LazyFrame:
    """Adds `video_id`, `begin` and `finish` (seconds): `training.data.trajectory.clip_interval` over a table."""
    rows = rows.with_columns(pl.col("video").str.extract(_FILE).str.extract_groups(_NAMED).alias("_clip"))
    named = pl.col("_clip").struct
    times = {"begin": (named.field("2"), "start"), "finish": (named.field("3"), "end")}
    rows = rows.with_columns(
        named.field("1").alias("video_id"),
        *(pl.coalesce(in_name, own).str.strip_chars().alias(name) for name, (in_name, own) in times.items()),
    ).drop("_clip")
    rows = rows.with_columns(pl.col(name).str.extract(rf"^({_TIME})$").str.split(":").list.reverse() for name in times)
    rows = rows.with_columns(_seconds(pl.col(name)) for name in times)
    in_order = (pl.col("begin") < pl.col("finish")).fill_null(True)
    return rows.with_columns(pl.when(in_order).then(pl.col(name)).alias(name) for name in times)


def _seconds(parts: pl.Expr) -> pl.Expr:
    """Seconds, minutes and hours, as far as there are, in seconds."""
    at = [parts.list.get(i, null_on_oob=True).cast(pl.Float64) for i in range(3)]
    return at[0] + 60 * at[1].fill_null(0) + 3600 * at[2].fill_null(0)
