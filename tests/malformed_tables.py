"""Tables of every kind that minitext reads, and the options that read them: what the fuzz tests damage."""

import gzip

from hypothesis import strategies as st
from malformed import damage

CSV = (
    'text,label,split,tag\n"good, and\nlong",pos,train,a\nbad film,neg,train,b\ngood,pos,train,a\nso bad,neg,,b\n'
    '"a ""good"" one",pos,,a\nno,neg,,\nyes,pos,test,\nnever,neg,test,b\nnaïve 数据,pos,,\nthe worst,neg,,\n'
)
ROWS = [("good film", "pos"), ("bad film", "neg"), ("so good", "pos"), ("so bad", "neg"), ("a <br /> b", "pos"),
        ("never", "neg"), ("naïve", "pos"), ("the worst", "neg")]  # fmt: skip
JSONL = "".join(f'{{"text": "{text}", "label": "{label}", "id": {i}}}\n' for i, (text, label) in enumerate(ROWS))
NUMBERED = "".join(f'"{label}","{text}"\n' for text, label in ROWS)
SEMICOLONS = "text;label\n" + "".join(f"{text};{label}\n" for text, label in ROWS)
TABS = "review\tsentiment\n" + "".join(f"{text}\t{label}\n" for text, label in ROWS)
FASTTEXT = "".join(f"__label__{label} {text}\n" for text, label in ROWS)
BY_NUMBER = {"no_header": True, "text_column": "2", "label_column": "1"}
TABLES: dict[str, tuple[bytes, dict]] = {  # name: content, options
    "a.csv": (CSV.encode(), {}),
    "b.tsv": (TABS.encode(), {}),
    "c.jsonl": (JSONL.encode(), {}),
    "d.txt": (FASTTEXT.encode(), {}),
    "e.csv": (SEMICOLONS.encode(), {"delimiter": ";"}),
    "f.csv": (NUMBERED.encode(), BY_NUMBER),
    "g.csv": (CSV.encode("utf-16"), {}),
    "h.csv": (CSV.replace("数据", "").encode("latin-1"), {"encoding": "latin-1"}),
    "i.csv.gz": (CSV.encode(), {}),
    "j.jsonl.gz": (JSONL.encode(), {}),
    "k.data": (TABS.encode("utf-16-le"), {"delimiter": "tab", "encoding": "utf-16-le"}),
}
OPTIONS = {
    "no_header": [True, False],
    "delimiter": [None, ";", ",", "tab", "|", " ", "é", "\0", "ab", "", '"', "\n"],
    "encoding": [
        None, "utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "utf-7", "latin-1", "cp1252", "cp037", "gb18030",
        "shift_jis", "hz", "iso2022_jp", "punycode", "idna", "unicode_escape", "raw_unicode_escape", "base64", "rot13",
        "undefined", "x\0", "", "mbcs", "charmap", "palmos",
    ],
    "text_column": [None, "text", "2", "0", "text,label", "99999", ",", "label"],
    "label_column": [None, "label", "1", "-1", "tag", "text", "\ud800"],
}  # fmt: skip


def damaged_table(data: st.DataObject) -> tuple[str, bytes, dict]:
    """The name of a table, its damaged bytes, and its options, of which one may be another."""
    name = data.draw(st.sampled_from(sorted(TABLES)), "table")
    content, options = TABLES[name]
    if name.endswith(".gz"):  # damaged inside or outside
        if data.draw(st.booleans(), "inside"):
            content = gzip.compress(damage(content, data), 1)
        else:
            content = damage(gzip.compress(content, 1), data)
    elif data.draw(st.integers(0, 4), "damage"):
        content = damage(content, data)
    if data.draw(st.booleans(), "another option"):
        option = data.draw(st.sampled_from(sorted(OPTIONS)), "option")
        options = options | {option: data.draw(st.sampled_from(OPTIONS[option]), "value")}
    return name, content, options
