"""What makes two rows the same: keys of questions, answers and clips, as polars expressions over millions of rows.

A question's key ignores letter case, punctuation and stop words and keeps every number; an answer's key is what the
grader compares.  A clip is the same under whatever name: the same file name, the same file content, or the same
interval of the same YouTube video.  A row repeats another that asks the same about the same frames of the same clip.
"""

import polars as pl

COMPARED = ("row_id", "video", "p_t", "gain", "start", "end", "sha256", "question", "answer", "observed", "future")
"""The columns from which the keys of a row are made."""

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
    stop_words = words.gather(bare).list.join(" ")
    return keys.scatter(bare, stop_words.zip_with(stop_words != "", plain.gather(bare).str.strip_chars()))


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
    """Adds `video_id`, `begin` and `finish` (seconds): `training.data.clip_names.clip_interval` over a table."""
    rows = rows.with_columns(pl.col("video").str.extract(_FILE).str.extract_groups(_NAMED).alias("_clip"))
    named = pl.col("_clip").struct
    times = {"begin": (named.field("2"), "start"), "finish": (named.field("3"), "end")}
    rows = rows.with_columns(
        named.field("1").alias("video_id"),
        *(pl.coalesce(in_name, in_row).str.strip_chars().alias(name) for name, (in_name, in_row) in times.items()),
    ).drop("_clip")
    rows = rows.with_columns(pl.col(name).str.extract(rf"^({_TIME})$").str.split(":").list.reverse() for name in times)
    rows = rows.with_columns(_seconds(pl.col(name)) for name in times)
    in_order = (pl.col("begin") < pl.col("finish")).fill_null(True)
    return rows.with_columns(pl.when(in_order).then(pl.col(name)).alias(name) for name in times)


def _seconds(parts: pl.Expr) -> pl.Expr:
    """Seconds, minutes and hours, as far as there are, in seconds."""
    at = [parts.list.get(i, null_on_oob=True).cast(pl.Float64) for i in range(3)]
    return at[0] + 60 * at[1].fill_null(0) + 3600 * at[2].fill_null(0)


def keyed(rows: pl.LazyFrame) -> pl.LazyFrame:
    """Numbers and keys of each row, without its texts.

    `file`, `frames`, `stem`, `options` and `answer` are hashes of this process: of the clip's content, the key-frame
    indices, the question without its options, the options, and the answer in words.
    """
    question, answer = pl.col("question"), answer_in_words(pl.col("question"), pl.col("answer"))
    return with_clip_interval(rows.select(COMPARED)).select(
        "row_id",
        "video",
        "p_t",
        "gain",
        "video_id",
        "begin",
        "finish",
        pl.coalesce("sha256", "video").hash().alias("file"),
        pl.struct("observed", "future").hash().alias("frames"),
        question_key(question_stem(question)).hash().alias("stem"),
        question_key(question_options(question)).hash().alias("options"),
        answer_key(answer).hash().alias("answer"),
    )


def best_of_each(keys: pl.DataFrame) -> pl.DataFrame:
    """One row per trajectory of a keyed table: the one of the best gain where several shards have it."""
    if keys["row_id"].n_unique() == keys.height:
        return keys
    best_first = keys.sort("gain", "p_t", "video", descending=[True, False, False], nulls_last=True)
    return best_first.unique("row_id", keep="first")


def clip_number(ranked: pl.DataFrame) -> pl.Series:
    """`clip` [rows]: the lowest rank among all rows that are of the same clip, over any chain of names.

    `ranked` is a keyed table with `rank`.
    """
    unique = pl.col("rank").cast(pl.UInt64) + (1 << 63)  # a row without an interval shares it with no other
    interval = pl.struct("video_id", (pl.col("begin", "finish") * 1000).round().cast(pl.Int64))
    complete = pl.all_horizontal(pl.col("video_id", "begin", "finish").is_not_null())
    table = ranked.select(
        pl.col("rank").alias("clip"),
        pl.col("video").hash().alias("name"),
        "file",
        pl.when(complete).then(interval.hash()).otherwise(unique).alias("interval"),
    )
    while True:
        before = table["clip"]
        for name in ("name", "file", "interval"):
            table = table.with_columns(pl.col("clip").min().over(name))
        if table["clip"].equals(before):
            return before


def repeated(ranked: pl.DataFrame) -> pl.Series:
    """`same` [rows]: the rank of the best-ranked row that asks the same of the same frames, perhaps its own.

    `ranked` is a keyed table with `rank` and `clip` (`clip_number`).
    """
    question = ("clip", "frames", "stem", "options", "answer")
    return ranked.select(pl.col("rank").min().over(question).alias("same"))["same"]
