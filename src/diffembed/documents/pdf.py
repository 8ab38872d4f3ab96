"""The text of a PDF file, page after page, read by pypdf.

Read `pdf_text`. Scanned pages have no text; nothing is recognised.
"""

import logging
from typing import BinaryIO

from diffembed.errors import EmptyInputError, InputError, MissingExtraError


def pdf_text(file: BinaryIO, name: str) -> tuple[str, str]:
    """(title, text), with a blank line between pages.

    Raises InputError for what is damaged or needs a password, EmptyInputError for a file without text.
    """
    try:
        import pypdf
        from pypdf.errors import DependencyError
    except ImportError as error:
        raise MissingExtraError.of("pypdf", "index") from error
    # It reports every flaw that it works around; those it cannot are raised.
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)
    try:
        reader = pypdf.PdfReader(file)
        if reader.is_encrypted and not reader.decrypt(""):
            raise InputError(f"{name} is protected by a password")
        title = str((reader.metadata.title if reader.metadata else None) or "")
        pages = [page.extract_text() for page in reader.pages]
    except InputError:
        raise
    except (NotImplementedError, OSError, ImportError, DependencyError) as error:
        raise InputError(f"{name} cannot be read: {error}") from error
    # What a damaged file makes a parser raise has no common class: ValueError, AssertionError, RecursionError ...
    except Exception as error:
        raise InputError(f"{name} is not a PDF file, or it is damaged: {type(error).__name__}") from error
    text = "\n\n".join(page.strip() for page in pages if page.strip())
    if not text:
        raise EmptyInputError(f"{name} has no text; its {len(pages)} pages are pictures or empty")
    return " ".join(title.split()), text.replace("\0", "") + "\n"
