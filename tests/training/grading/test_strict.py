"""`strict` reads an answer that states one option in option form, and no other."""

import pytest

from training.grading.parsers import parse, strict

STATES_C = """C|(c)|C.|C)|c|( C )|C .|C!|[C]|【C】|Ⓒ|𝐂|Ｃ．|（C）|（Ｃ） green|C。|**C**|**C. green**|**C**. green
**(C)** green|*C*|__C__|`C`|"C"|“C”|‘C’|'C'|「C」|«C»|<b>C</b>|### C|- C|> C|✅ C|C ✅|\\boxed{C}|\\boxed{\\text{C}}
$\\boxed{C}$|$$\\boxed{\\text{(C)}}$$|\\(C\\)|\\[\\boxed{C}\\]|\\boxed{\\text{C. green}}|\\textbf{C}|$C$|option C
Option C: green|Option (C) green|choice C|Option: (c)|Answer: C|answer: c|Answer - C|Answer=C|Ans: C|Final Answer: C
**Answer:** C|Answer: **C. green**|**Final answer:** **(C)** green|{"answer": "C"}|My answer is option C.
the answer is c|The correct answer is C.|The correct answer is **C**.|The Correct option is C|The best option is C
The answer is: C|It is C.|The answer is C because it rains|Therefore, the answer is (C).|So the answer is C
The most likely answer is C|I choose C|I think the answer is C|I would go with option (C)|C is correct
C is the correct answer because it rains|C, because it rains|答案：C|答案为：C、绿色|答案是C。|正确答案是 C|选C
选项C：绿色|我认为答案是C|正确的是C|C、green|C：绿色|C.绿色|C，green|C. green|c. green|C) green|c) a man|C)green
C.green|(C) green|(C)green|C: green|C - green|C – green|C → green|C (green)|C. A dog runs|C) It is A dog
C. A man (a tall one) runs|C. A 5-year-old jumps|C. The A-team wins|C. It is a cat.|C: A dog, a cat
C. The man does not jump|C. not moving|C. He is never wrong|C. Nobody is wrong
👉 C|➡️ C|因此，答案是C。|所以，选C|选择 C 选项|C 是正确的|【答案】C|最可能的答案是C|〔C〕|《C》|C. 不会动
C：不动|答えはCです
C. He flies to Washington D.C. tomorrow|C. It rises to 30°C|C. C. C.|The answer is C. The answer is C."""
STATES_A = (
    "A|(a)|A.|a|A) red|A: red|A。|A、red|A. A dog|A, because|Option A|The answer is A|A is right|选A|答案：A|**A**"
)
STATES_NONE = """(A) or (B)|A. or B.|A) and C)|(a) or (b)|a or b|A or B|A, B|A,B|A.B|A/B|A & B|A+B|A B|B C|b, c|AB
ABCD|A、B|A和B|B. is not right; it is C.|(A) is wrong, (B) is right|A is wrong, so C|not A, it is B|C. Actually (D)
A. Wait, B.|a. b. c.|Either A or B|Neither A nor B|All except C|C or something|C. green D. pink|C. green (not D)
The answer is A or B|选A或C|**A** or **B**|\\boxed{A} or \\boxed{B}|\\boxed{A, B}|(A)(B)|~~A~~ C
Option A or option B|C; D|not C|Not C|The answer is not C|Answer: not C|It isn't C|C isn't right|C is wrong
(C) is incorrect|C is not correct|C is definitely not right|C. No, not C|C cannot be|wrong: C|不是C|C不对|C错
B ✗|B ❌|B (wrong)|~~B~~|B is eliminated|B is less likely|B is the least likely|B is implausible
B是错的|B，不对|C 不对|Bではない|B 아니다
A dog runs|A cat jumps|a dog|A (small) dog|A man is (C)|The answer is A dog|the A-team|A.M. light|Because it rains
Dunno|The vitamin C|C's|C-section|B.B. King|C?|optionC|None of the above|E|I|1|"""


@pytest.mark.parametrize("answer", [one for line in STATES_C.splitlines() for one in line.split("|")])
def test_one_letter_is_read_in_any_option_form_and_markup(answer: str) -> None:
    assert strict(f"<reason>A</reason><answer>{answer}</answer>").letter == "C"


@pytest.mark.parametrize("answer", [one for line in STATES_A.splitlines() for one in line.split("|")])
def test_a_is_a_letter_where_it_is_no_article(answer: str) -> None:
    assert strict(f"<answer>{answer}</answer>").letter == "A"


@pytest.mark.parametrize("answer", [one for line in STATES_NONE.splitlines() for one in line.split("|")])
def test_what_names_several_denies_or_only_mentions_a_letter_is_unparsed(answer: str) -> None:
    assert strict(f"<answer>{answer}</answer>").letter is None


@pytest.mark.parametrize(
    ("answer", "rule"),
    [
        ("**C**", "letter"),
        ("C. green", "letter and text"),
        ("The answer is (C) because it rains", "phrase"),
        ("答案：C", "phrase"),
        ("A or B", "no anchored letter"),
        ("A. or B.", "several letters"),
        ("C is wrong", "letter denied"),
        ("green", "no anchored letter"),
    ],
)
def test_each_answer_says_which_rule_decided(answer: str, rule: str) -> None:
    assert strict(f"<answer>{answer}</answer>").rule == rule


def test_letters_in_an_options_own_text_name_nothing() -> None:
    options = {"A": "Plan A works", "B": "Plan B is not right", "C": "Vitamin D helps"}
    for letter, text in options.items():
        assert parse("strict", f"<answer>{letter}. {text}.</answer>", options).letter == letter
    assert parse("strict", "<answer>C. Vitamin D hurts</answer>", options).letter is None
