"""Settings, read from the environment through one typed reader that refuses nonsense by name.

`manage.py up` leaves the addresses of the services it runs in a file in the data directory, so that other
commands find them; a variable set in the environment always wins.
"""

from __future__ import annotations

import hashlib
import logging
from typing import Any

import dj_database_url
from environs import Env

from core.platform.paths import REPOSITORY, data_dir, runtime_env_file

env = Env()
if runtime_env_file().is_file():
    env.read_env(str(runtime_env_file()), recurse=False)

BASE_DIR = REPOSITORY
DATA_DIR = data_dir()

DEBUG = env.bool("DEBUG", default=False)
SECRET_KEY = env.str("SECRET_KEY", default="")
if not SECRET_KEY:
    # Commands that need no secret (doctor, up before its services run, makemigrations) still start; a random
    # key signs nothing that outlives the process, so a forgotten SECRET_KEY cannot be exploited.
    import secrets

    SECRET_KEY = secrets.token_urlsafe(48)

# The domain under which tenants have their sub-domains, and that of the operators' site.
BASE_DOMAIN = env.str("BASE_DOMAIN", default="localhost")
PORT = env.int("PORT", default=8000)
DEPLOYMENT_MODE = env.str("DEPLOYMENT_MODE", default="multi")
if DEPLOYMENT_MODE not in {"multi", "single"}:
    raise ValueError(f"DEPLOYMENT_MODE is {DEPLOYMENT_MODE!r}; it must be 'multi' or 'single'.")
# Schema of the only tenant in single mode.
SINGLE_TENANT_SCHEMA = env.str("SINGLE_TENANT_SCHEMA", default="main")
# The only tenant of single mode answers at any host; a deployment names its own.
_any_host = ["*"] if DEPLOYMENT_MODE == "single" else [BASE_DOMAIN, f".{BASE_DOMAIN}", "127.0.0.1", "[::1]"]
ALLOWED_HOSTS = env.list("ALLOWED_HOSTS", default=_any_host)
CSRF_TRUSTED_ORIGINS: list[str] = env.list("CSRF_TRUSTED_ORIGINS", default=[])
HTTPS = env.bool("HTTPS", default=False)

# ------------------------------------------------------------------ applications
# `accounts`, `audit` and `api` exist in the public schema (operators) and in each tenant's.
_BOTH = [
    "django.contrib.contenttypes",
    "django.contrib.auth",
    "django.contrib.sessions",
    "tenants.accounts",
    "axes",
    "auditlog",
    "core.security",
    "core.audit",
    "core.api",
]
SHARED_APPS = [
    "django_tenants",
    "tenants",
    *_BOTH,
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django.contrib.humanize",
    "django_cotton",
    "django_htmx",
    "lucide",
    "rest_framework",
    "drf_spectacular",
    "core.platform",
    "core.ui",
    "workers",
]
TENANT_APPS = [
    *_BOTH,
    "core.evidence",
    "tenants.quotas",
    "inference",
    "inference.ledger",
    "inference.policies",
    "inference.guards",
    "inference.caches",
    "inference.knobs",
    "inference.upstreams",
    "inference.gateway",
    "governance",
    "pilots",
    "ip_portfolio",
]
INSTALLED_APPS = [*SHARED_APPS, *[app for app in TENANT_APPS if app not in SHARED_APPS]]

TENANT_MODEL = "tenants.Tenant"
TENANT_DOMAIN_MODEL = "tenants.Domain"
PUBLIC_SCHEMA_NAME = "public"
AUTH_USER_MODEL = "accounts.User"
TENANT_LIMIT_SET_CALLS = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
ROOT_URLCONF = "core.urls"
PUBLIC_SCHEMA_URLCONF = "core.urls_public"
WSGI_APPLICATION = "core.wsgi.application"

MIDDLEWARE = [
    "core.platform.middleware.CorrelationMiddleware",
    # Headers that protect the reader; also on the pages of unknown hosts and deactivated tenants.
    "django.middleware.security.SecurityMiddleware",
    "csp.middleware.CSPMiddleware",
    "django_permissions_policy.PermissionsPolicyMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "tenants.middleware.TenantMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "tenants.accounts.middleware.ActorMiddleware",
    "auditlog.middleware.AuditlogMiddleware",
    "core.ui.middleware.DomainErrorMiddleware",
    "axes.middleware.AxesMiddleware",
]

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "core.ui.context.ui",
            ],
        },
    },
]

# ------------------------------------------------------------------ services
DATABASE_URL = env.str("DATABASE_URL", default="postgres://signoff@127.0.0.1:5432/signoff")
_database: dict[str, Any] = dict(dj_database_url.parse(DATABASE_URL))
_database.update(
    ENGINE="django_tenants.postgresql_backend",
    ATOMIC_REQUESTS=False,
    # The pool replaces persistent connections; they must not be combined.
    CONN_MAX_AGE=0,
    OPTIONS={
        **_database.get("OPTIONS", {}),
        # Client-side binding would let stacked statements through.
        "server_side_binding": True,
        # Seconds in max_lifetime and timeout. A back-end that served many schemas grows its catalogue
        # caches to hundreds of megabytes, so connections are retired.
        "pool": {
            "min_size": 1,
            "max_size": env.int("DATABASE_POOL_SIZE", default=8),
            "max_lifetime": 600,
            "timeout": 30,
        },
    },
    TEST={"NAME": env.str("TEST_DATABASE_NAME", default=f"test_{_database['NAME']}")},
)
DATABASES = {"default": _database}
DATABASE_ROUTERS = ["django_tenants.routers.TenantSyncRouter"]

BROKER_URL = env.str("BROKER_URL", default="redis://127.0.0.1:6379/0")
CACHE_URL = env.str("CACHE_URL", default="redis://127.0.0.1:6379/1")
CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "LOCATION": CACHE_URL,
        # Keys carry the schema, so that no tenant reads another's entry.
        "KEY_FUNCTION": "django_tenants.cache.make_key",
        "REVERSE_KEY_FUNCTION": "django_tenants.cache.reverse_key",
    }
}
# An OpenAI-compatible engine to use instead of the embedded torch engine; empty for the embedded one.
ENGINE_URL = env.str("ENGINE_URL", default="")
ENGINE_API_KEY = env.str("ENGINE_API_KEY", default="")
# The gateway's own port, and the embedded engine's, which only the gateway calls.
GATEWAY_PORT = env.int("GATEWAY_PORT", default=PORT + 1)
ENGINE_PORT = env.int("ENGINE_PORT", default=PORT + 2)
SERVING_URL = env.str("SERVING_URL", default=f"http://127.0.0.1:{ENGINE_PORT}/v1")
# What the gateway shows the embedded engine. Derived, so that every process of an installation knows it.
ENGINE_TOKEN = env.str(
    "ENGINE_TOKEN", default=hashlib.sha256(f"signoff/engine-token/{SECRET_KEY}".encode()).hexdigest()
)
# Networks (CIDR) that upstreams set up by tenants must not reach, besides metadata services and this
# installation's own services, which they never may.
UPSTREAM_BLOCKED_NETWORKS: list[str] = env.list("UPSTREAM_BLOCKED_NETWORKS", default=[])
# A remote Open Policy Agent that decides instead of the embedded interpreter; empty for the embedded one.
OPA_URL = env.str("OPA_URL", default="")
# Bearer token the agent wants; empty for none.
OPA_TOKEN = env.str("OPA_TOKEN", default="")
# Stored answers of the gateway's caches, per tenant: rows, and bytes of answers.
CACHE_MAX_ENTRIES = env.int("CACHE_MAX_ENTRIES", default=20_000)
CACHE_MAX_BYTES = env.int("CACHE_MAX_BYTES", default=256 * 1024 * 1024)
# torch threads of the inference worker; 0 leaves the choice to torch.
ENGINE_THREADS = env.int("ENGINE_THREADS", default=0)
# float32, bfloat16, or auto: measured once per process on this machine.
ENGINE_DTYPE = env.str("ENGINE_DTYPE", default="auto")
# The serving engine (manage.py serve_engine): cpu, cuda or auto; sequences decoded together, tokens each may have
# (their keys and values are set aside when a model is loaded), models loaded at once, sequences that may wait.
ENGINE_DEVICE = env.str("ENGINE_DEVICE", default="cpu")
ENGINE_SLOTS = env.int("ENGINE_SLOTS", default=16)
ENGINE_CONTEXT = env.int("ENGINE_CONTEXT", default=2048)
ENGINE_MODELS = env.int("ENGINE_MODELS", default=2)
ENGINE_QUEUE = env.int("ENGINE_QUEUE", default=64)
# "" decodes in full precision; int8 or float16 with smaller weights (docs/design/serving.md).
ENGINE_QUANTISE = env.str("ENGINE_QUANTISE", default="")
MODEL_STORE = DATA_DIR / "models"
# Directories of the server from which models may be registered in the browser or by REST, by their path.
MODEL_IMPORT_ROOTS = env.list("MODEL_IMPORT_ROOTS", default=[str(DATA_DIR / "imports")])
# Bytes of an uploaded model (.gguf, or .zip of a directory), and of what a .zip may unpack to.
MODEL_UPLOAD_MAX_BYTES = env.int("MODEL_UPLOAD_MAX_BYTES", default=8 * 1024**3)
# Name of the kind of machine that measures, part of each run's plan; empty for a description of this one. Set it
# where the web server and the inference workers are different machines.
MACHINE_CLASS = env.str("MACHINE_CLASS", default="")

# Celery. Seconds. The visibility timeout must exceed the longest Run, or the broker delivers it twice; a
# killed worker's run is re-queued by its lease (RUN_LEASE_S), not by the broker.
CELERY_VISIBILITY_TIMEOUT_S = 24 * 3600
RUN_LEASE_S = env.int("RUN_LEASE_S", default=20)
CELERY_EAGER = env.bool("CELERY_EAGER", default=False)

# ------------------------------------------------------------------ security
AUTHENTICATION_BACKENDS = [
    "axes.backends.AxesStandaloneBackend",
    "django.contrib.auth.backends.ModelBackend",
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {
        "NAME": "django.contrib.auth.password_validation.MinimumLengthValidator",
        "OPTIONS": {"min_length": 12},
    },
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
LOGIN_URL = "accounts:sign_in"
LOGIN_REDIRECT_URL = "home"
LOGOUT_REDIRECT_URL = "accounts:sign_in"
# Failures before a lock-out, and its length in minutes.
AXES_FAILURE_LIMIT = env.int("LOCKOUT_FAILURES", default=5)
AXES_COOLOFF_TIME = env.float("LOCKOUT_MINUTES", default=15) / 60
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]
# Name of the credential that authenticate() is given. The default is the user model's field, which the attempts
# would then be recorded without, and a lock-out would not hold.
AXES_USERNAME_FORM_FIELD = "username"
AXES_RESET_ON_SUCCESS = True
AXES_ENABLE_ADMIN = False
AXES_LOCKOUT_CALLABLE = "tenants.accounts.views.locked_out"
AXES_VERBOSE = False
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_SECURE = HTTPS
CSRF_COOKIE_SECURE = HTTPS
SESSION_COOKIE_AGE = 12 * 3600
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
SECURE_SSL_REDIRECT = HTTPS
SECURE_HSTS_SECONDS = 31536000 if HTTPS else 0
# Whether a reverse proxy of ours stands in front and sets X-Forwarded-For and X-Forwarded-Proto.
BEHIND_PROXY = env.bool("BEHIND_PROXY", default=False)
if BEHIND_PROXY:
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
X_FRAME_OPTIONS = "DENY"
CSRF_FAILURE_VIEW = "core.ui.views.csrf_failure"
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": ["'self'"],
        "script-src": ["'self'"],
        "style-src": ["'self'"],
        "img-src": ["'self'", "data:"],
        "font-src": ["'self'"],
        "connect-src": ["'self'"],
        "object-src": ["'none'"],
        "frame-ancestors": ["'none'"],
        "base-uri": ["'none'"],
        "form-action": ["'self'"],
    }
}
PERMISSIONS_POLICY: dict[str, list[str]] = {
    "camera": [],
    "geolocation": [],
    "microphone": [],
    "payment": [],
    "usb": [],
}
# Bytes. Files above the first go to disk; a body without files above the second is refused.
FILE_UPLOAD_MAX_MEMORY_SIZE = 5 * 1024 * 1024
DATA_UPLOAD_MAX_MEMORY_SIZE = 20 * 1024 * 1024

# ------------------------------------------------------------------ audit
AUDITLOG_DISABLE_REMOTE_ADDR = True
# Changes go to our append-only log; django-auditlog keeps no rows of its own (core/audit/models.py, RowChange).
AUDITLOG_LOGENTRY_MODEL = "audit.RowChange"
AUDITLOG_STORE_JSON_CHANGES = True

# ------------------------------------------------------------------ REST
API_VERSION = "1.0.0"
REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "tenants.accounts.api.authentication.ApiKeyAuthentication",
        "tenants.accounts.api.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["core.api.permissions.ActionPermission"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": [
        "core.api.parsers.JSONParser",
        "rest_framework.parsers.MultiPartParser",
    ],
    "DEFAULT_SCHEMA_CLASS": "core.api.schema.AutoSchema",
    "DEFAULT_PAGINATION_CLASS": "core.api.pagination.CursorPagination",
    "EXCEPTION_HANDLER": "core.api.errors.exception_handler",
    "DEFAULT_THROTTLE_CLASSES": ["core.api.throttling.PlanThrottle"],
    "TEST_REQUEST_DEFAULT_FORMAT": "json",
    "UNAUTHENTICATED_USER": None,
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Signoff",
    "DESCRIPTION": "From a measured number to a signed decision.",
    "VERSION": API_VERSION,
    "OAS_VERSION": "3.1.0",
    "SERVE_INCLUDE_SCHEMA": False,
    "SCHEMA_PATH_PREFIX": "/api/v1",
    "COMPONENT_SPLIT_REQUEST": True,
    "ENUM_GENERATE_CHOICE_DESCRIPTION": False,
    "POSTPROCESSING_HOOKS": [
        "core.api.schema.describe_problems",
    ],
}

# ------------------------------------------------------------------ pages
LANGUAGE_CODE = "en-gb"
TIME_ZONE = "UTC"
USE_I18N = False
USE_TZ = True
STATIC_URL = "/static/"
STATICFILES_DIRS = [BASE_DIR / "static"]
STATICFILES_FINDERS = [
    "django.contrib.staticfiles.finders.FileSystemFinder",
    "django.contrib.staticfiles.finders.AppDirectoriesFinder",
    "core.ui.finders.WheelAssetsFinder",
]
# Served straight from the checkout and the wheels: no collecting step to forget.
WHITENOISE_USE_FINDERS = True
WHITENOISE_MAX_AGE = 300
# The live catalogue of components at /_components/.
SHOW_COMPONENTS = env.bool("SHOW_COMPONENTS", default=DEBUG)
COTTON_DIR = "cotton"
COTTON_SNAKE_CASED_NAMES = False
MESSAGE_STORAGE = "django.contrib.messages.storage.session.SessionStorage"
FORM_RENDERER = "django.forms.renderers.DjangoTemplates"

# ------------------------------------------------------------------ logs
LOG_LEVEL = env.log_level("LOG_LEVEL", default=logging.INFO)
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "filters": {"correlation": {"()": "core.platform.middleware.CorrelationFilter"}},
    "formatters": {
        "json": {
            "()": "pythonjsonlogger.json.JsonFormatter",
            "format": "%(asctime)s %(levelname)s %(name)s %(message)s %(correlation_id)s %(schema)s",
        }
    },
    "handlers": {
        "stderr": {"class": "logging.StreamHandler", "formatter": "json", "filters": ["correlation"]}
    },
    "root": {"handlers": ["stderr"], "level": LOG_LEVEL},
    "loggers": {
        "django.request": {"level": "ERROR"},
        "django.security.DisallowedHost": {"level": "ERROR"},
    },
}

SILENCED_SYSTEM_CHECKS: list[str] = []
TEST_RUNNER = "django.test.runner.DiscoverRunner"
