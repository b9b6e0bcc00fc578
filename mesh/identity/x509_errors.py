"""What `cryptography` raises for keys, requests and certificates that it cannot read.

Only some of it is a ValueError: a wrong version or a doubled extension is an Exception of its own, and what strangers
send must not become an error of ours.
"""

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

UNREADABLE: tuple[type[Exception], ...] = (
    ValueError,
    TypeError,
    InvalidSignature,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.ExtensionNotFound,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
