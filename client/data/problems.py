"""What can be wrong with a hospital's files, by code: the codes that end an error sentence, and their pages.

``docs/generate.py`` writes a page of the documentation for each. A code never changes its meaning.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType


class Problem(StrEnum):
    """Code of something that is wrong with the files themselves and stops a command with exit code 2."""

    MISSING_FOLDER = "missing-folder"
    MISSING_TABLE = "missing-table"
    MISSING_COLUMN = "missing-column"
    EMPTY_TABLE = "empty-table"
    SHORT_ROW = "short-row"
    BAD_CSV = "bad-csv"
    BAD_TIME = "bad-time"
    BAD_NUMBER = "bad-number"
    BAD_KEY = "bad-key"
    BAD_UNIT = "bad-unit"
    BAD_WORD = "bad-word"
    DAMAGED_FILE = "damaged-file"
    NO_POTASSIUM_ITEM = "no-potassium-item"
    NO_DRAWS = "no-draws"
    NO_WAVEFORMS = "no-waveforms"
    BAD_HEADER = "bad-header"
    BAD_SIGNAL_FILE = "bad-signal-file"
    UNKNOWN_RECORD = "unknown-record"
    MISSING_PACKAGE = "missing-package"
    BAD_REVIEW = "bad-review"


@dataclass(frozen=True)
class Explanation:
    """What a page of the documentation says: what happened, how it comes about, what to do."""

    what: str
    why: str
    do: str


PROBLEMS: Mapping[Problem, Explanation] = MappingProxyType(
    {
        Problem.MISSING_FOLDER: Explanation(
            "A folder that the settings name does not exist, or is a file.",
            "The data root is not mounted, or `source.folder`, `source.clinical` or `source.waveforms` in "
            "`site.toml` does not fit it.",
            "Look at the path in the sentence. Mount the data, or correct the setting. "
            "`fedkalemia-site doctor SITE` says which layout the folder looks like.",
        ),
        Problem.MISSING_TABLE: Explanation(
            "A table that the layout needs is not in its folder.",
            "The export is not complete, or the tables are in another folder. Names count in any case, plain "
            "(`.csv`) or compressed (`.csv.gz`).",
            "Put the table there, or correct `source.clinical` in `site.toml`.",
        ),
        Problem.MISSING_COLUMN: Explanation(
            "A table has no column of a name that is needed.",
            "The first line of the file is not the line of column names, or the table is another one of the "
            "same name.",
            "Export the table again with its header. The terminal shows the columns that were found.",
        ),
        Problem.EMPTY_TABLE: Explanation(
            "A table is empty; even the line of column names is missing.",
            "The export or the copy stopped before it began.",
            "Copy or export the table again.",
        ),
        Problem.SHORT_ROW: Explanation(
            "A line of a table has fewer fields than its header promises.",
            "The file was cut in the middle, or a text with a line break was written without quotes.",
            "Export the table again. Nothing was stored of the run that met it.",
        ),
        Problem.BAD_CSV: Explanation(
            "A line cannot be read as comma-separated values.",
            "A quote was opened and never closed, or the file is not text at all.",
            "Export the table again, with quotes around texts that hold commas, quotes or line breaks.",
        ),
        Problem.BAD_TIME: Explanation(
            "A time is not written like `2150-01-31 08:05:00`.",
            "A spreadsheet program opened and saved the table. It changes dates to its own form (`9/24/64 "
            "20:21`) or to a number of days (`44462.85`), and cannot hold years after 9999 or before 1900. "
            "Which day was meant cannot be known afterwards, so nothing is guessed.",
            "Export the table from the database again and do not open it in a spreadsheet program.",
        ),
        Problem.BAD_NUMBER: Explanation(
            "A field that must be a number is none.",
            "Units or words stand in the same field, or a comma is used as the decimal sign.",
            "Write the number with a decimal point and nothing else; the unit has a column of its own.",
        ),
        Problem.BAD_KEY: Explanation(
            "A patient identifier is empty or not of the form the layout has.",
            "Columns were shifted, or another identifier was exported.",
            "Export the table again. In the MIMIC layouts SUBJECT_ID is a whole number.",
        ),
        Problem.BAD_UNIT: Explanation(
            "A unit is missing or is not one the software can convert.",
            "Potassium is read in mEq/L or mmol/L, which are the same number; signals in V, mV or uV.",
            "Write one of the units the sentence lists.",
        ),
        Problem.BAD_WORD: Explanation(
            "A field that may hold only a few words holds another.",
            "The export uses a code of its own, such as `1` and `0` for yes and no, or columns were shifted.",
            "Write one of the words the sentence lists, or leave the field empty.",
        ),
        Problem.DAMAGED_FILE: Explanation(
            "A file cannot be read to its end.",
            "The copy was interrupted, the disk has errors, or a `.gz` file is not compressed.",
            "Compare the size with the original and copy it again.",
        ),
        Problem.NO_POTASSIUM_ITEM: Explanation(
            "The table of laboratory items lists no potassium in blood.",
            "It belongs to another hospital or is not complete. Potassium in urine, stool and other fluids "
            "carries almost the same name and is refused.",
            "Check that the item table is the one of the laboratory results.",
        ),
        Problem.NO_DRAWS: Explanation(
            "There is no blood potassium in the laboratory table.",
            "The table is a part of the whole one, or was filtered by other items.",
            "Export the results of the items that the sentence lists.",
        ),
        Problem.NO_WAVEFORMS: Explanation(
            "The folder of the waveforms holds no record of this layout.",
            "`source.waveforms` points a folder too high or too low, or the waveforms are of another layout.",
            "Correct `source.waveforms` in `site.toml`; the sentence shows what a path should look like.",
        ),
        Problem.BAD_HEADER: Explanation(
            "The header of a recording does not follow its format.",
            "It was edited, cut, or is a file of another kind.",
            "Copy the record again. In a hospital's folder a damaged header costs that record, never the "
            "run: this error comes only where the record itself was asked for.",
        ),
        Problem.BAD_SIGNAL_FILE: Explanation(
            "A file of samples is missing, shorter than its header says, or cannot be decoded.",
            "The copy was interrupted, or the header belongs to another file.",
            "Copy the record again.",
        ),
        Problem.UNKNOWN_RECORD: Explanation(
            "The settings ask for a record that the folder does not hold.",
            "`source.records` names it, but there is no such header with annotations.",
            "Correct `source.records`; the sentence lists what is there.",
        ),
        Problem.MISSING_PACKAGE: Explanation(
            "The layout needs a Python package that is not installed.",
            "Packages that few sites need are extras: `edf` and `vitaldb`.",
            "Install it: `pip install 'fedkalemia[edf]'` or `'fedkalemia[vitaldb]'`.",
        ),
        Problem.BAD_REVIEW: Explanation(
            "A file with a reviewer's verdicts has a line that cannot be used.",
            "A verdict is misspelled, a line was typed or copied twice, a comment stands without a verdict, "
            "the file belongs to the sheet of another site, or a spreadsheet program saved it in another "
            "encoding than UTF-8.",
            "Look at the line in the sentence. Verdicts are `usable`, `unusable` and `unsure`; of a strip "
            "without one the field is empty. Nothing was stored of the file; read it again once it is right.",
        ),
    }
)
