"""The catalogue of what can be found: names as Presidio's where it has one, the word that replaces it, the default."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Entity:
    """One kind of thing. ``group``: personal, national or secret. ``default``: what the default profile does."""

    name: str
    label: str
    group: str
    title: str
    default: str = "mask"


def _table(group: str, rows: str, default: str = "mask") -> list[Entity]:
    made = []
    for row in rows.strip().splitlines():
        name, label, title = (part.strip() for part in row.split("|"))
        made.append(Entity(name, label, group, title, default))
    return made


_PERSONAL: Final = """
EMAIL_ADDRESS | EMAIL | E-mail address
PHONE_NUMBER | PHONE | Telephone number
CREDIT_CARD | CARD | Payment card number
IBAN_CODE | IBAN | Bank account by IBAN
IP_ADDRESS | IP | IP address, version 4 or 6
CRYPTO | CRYPTO_ADDRESS | Bitcoin or Ethereum address
BANK_ACCOUNT | BANK_ACCOUNT | Bank account number, when the text calls it one
ABA_ROUTING_NUMBER | ROUTING_NUMBER | US bank routing number, when the text calls it one
DATE_OF_BIRTH | BIRTH_DATE | Date of birth in digits, when the text calls it one
PASSPORT | PASSPORT | Passport number, when the text calls it one
DRIVER_LICENSE | DRIVER_LICENSE | Driving licence number, when the text calls it one
"""
_NATIONAL: Final = """
US_SSN | SSN | US social security number
US_ITIN | ITIN | US individual taxpayer number
UK_NHS | NHS | UK National Health Service number
UK_NINO | NINO | UK National Insurance number
ES_NIF | NIF | Spanish DNI or NIE
IT_FISCAL_CODE | FISCAL_CODE | Italian codice fiscale
PL_PESEL | PESEL | Polish PESEL
FR_NIR | NIR | French social security number
DE_TAX_ID | TAX_ID | German tax identification number
NL_BSN | BSN | Dutch citizen service number
BE_NN | NATIONAL_NUMBER | Belgian national number
IN_AADHAAR | AADHAAR | Indian Aadhaar number
IN_PAN | PAN | Indian permanent account number
BR_CPF | CPF | Brazilian CPF
CA_SIN | SIN | Canadian social insurance number
AU_TFN | TFN | Australian tax file number
CH_AHV | AHV | Swiss AHV number
FI_HETU | HETU | Finnish personal identity code
SG_NRIC | NRIC | Singapore NRIC or FIN
"""
_SECRET: Final = """
PRIVATE_KEY | PRIVATE_KEY | Private key block (PEM, OpenSSH, PGP)
JWT | JWT | JSON Web Token
SIGNOFF_KEY | API_KEY | API key of this gateway
OPENAI_KEY | OPENAI_KEY | OpenAI API key
ANTHROPIC_KEY | ANTHROPIC_KEY | Anthropic API key
AWS_ACCESS_KEY | AWS_KEY | AWS access key id
GITHUB_TOKEN | GITHUB_TOKEN | GitHub token
GITLAB_TOKEN | GITLAB_TOKEN | GitLab token
SLACK_TOKEN | SLACK_TOKEN | Slack token or webhook
STRIPE_KEY | STRIPE_KEY | Stripe key
GOOGLE_KEY | GOOGLE_KEY | Google API key or OAuth token
CLOUD_KEY | CLOUD_KEY | Key of another well-known provider
URL_PASSWORD | URL_PASSWORD | Password inside a connection string
PASSWORD | PASSWORD | Value given as a password
SECRET | SECRET | Value given as a key, token or secret
"""

ENTITIES: Final[dict[str, Entity]] = {
    entity.name: entity
    for entity in (
        *_table("personal", _PERSONAL),
        *_table("national", _NATIONAL),
        *_table("secret", _SECRET),
    )
}
# Shorter names that a configuration may use as well.
ALIASES: Final[dict[str, str]] = {
    "EMAIL": "EMAIL_ADDRESS",
    "PHONE": "PHONE_NUMBER",
    "CARD": "CREDIT_CARD",
    "IBAN": "IBAN_CODE",
    "IP": "IP_ADDRESS",
    "SSN": "US_SSN",
    "ES_NIE": "ES_NIF",
    "SG_NRIC_FIN": "SG_NRIC",
    "FI_PERSONAL_IDENTITY_CODE": "FI_HETU",
    "US_BANK_NUMBER": "BANK_ACCOUNT",
    "US_PASSPORT": "PASSPORT",
    "US_DRIVER_LICENSE": "DRIVER_LICENSE",
}
SECRETS: Final = frozenset(entity.name for entity in ENTITIES.values() if entity.group == "secret")
