"""Settings of the tests: the project's own, on services of the tests' own."""

from tests.services import ensure_services

ensure_services()

from core.settings import *  # noqa: E402, F403
from core.settings import ALLOWED_HOSTS, DATABASES, LOGGING  # noqa: E402

# Hashing slowly on purpose would cost a tenth of a second per user.
PASSWORD_HASHERS = [
    "django.contrib.auth.hashers.MD5PasswordHasher",
    "django.contrib.auth.hashers.PBKDF2PasswordHasher",  # of people whom a command made in its own process
]
ALLOWED_HOSTS = [*ALLOWED_HOSTS, "testserver", ".testserver"]
# Databases are dropped and made again between tests; a pool would hand out connections to the dropped ones.
DATABASES["default"]["OPTIONS"].pop("pool", None)
LOGGING["root"]["level"] = "WARNING"  # type: ignore[index]
SHOW_COMPONENTS = True
