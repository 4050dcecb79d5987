"""`python -m evaluation.lmms_eval` prints the folder of our tasks, for lmms-eval's `--include_path`."""

from evaluation.lmms_eval import TASKS

if __name__ == "__main__":
    print(TASKS)
