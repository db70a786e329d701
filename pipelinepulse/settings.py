"""Settings: one file for every environment; environments differ in values, which `env.py` reads."""

import os
import sys
from datetime import timedelta
from pathlib import Path

from csp.constants import NONE, SELF

from pipelinepulse import env, logs

BASE_DIR = Path(__file__).resolve().parent.parent

try:
    ENVIRONMENT = env.read(os.environ, base_dir=BASE_DIR)
except env.ConfigurationError as error:
    print(f"Pipeline Pulse cannot start: {error}", file=sys.stderr)  # noqa: T201
    raise SystemExit(2) from None

# --- the product ---------------------------------------------------------------------------
PULSE_HOME = ENVIRONMENT.home
EMBEDDED = ENVIRONMENT.embedded
SANDBOX = ENVIRONMENT.sandbox
APP_BASE_URL = ENVIRONMENT.app_base_url
PORT = ENVIRONMENT.port
BUSINESS_TIME_ZONE = ENVIRONMENT.business_time_zone
ENCRYPTION_KEYS = list(ENVIRONMENT.encryption_keys)
WEBHOOK_TOKENS = list(ENVIRONMENT.webhook_tokens)
WEBHOOK_PER_SECOND = ENVIRONMENT.webhook_per_second
# Notices of one process this near to each other wake a worker once.
WEBHOOK_NUDGE_GAP_S = 0.02
CONFIGURATION_NOTICES = list(ENVIRONMENT.notices)

ZOHO = ENVIRONMENT.zoho
ZOHO_FIELD_PROFILE = ENVIRONMENT.zoho_field_profile
WRITE_BACK = ENVIRONMENT.write_back
WRITE_BACK_FORCED_OFF = ENVIRONMENT.write_back_forced_off

SYNC_LEASE_SECONDS = ENVIRONMENT.sync_lease_seconds
SYNC_HEARTBEAT_SECONDS = ENVIRONMENT.sync_heartbeat_seconds
# The percent of a day's API credits at which a run stops and leaves the rest to others.
SYNC_CREDIT_FLOORS = {"full": 10, "reconcile": 10, "delta": 2}
SWEEP_SECONDS = ENVIRONMENT.sweep_seconds
DELTA_MINUTES = ENVIRONMENT.delta_minutes

# --- Django --------------------------------------------------------------------------------
DEBUG = ENVIRONMENT.debug
SECRET_KEY = ENVIRONMENT.secret_key
ALLOWED_HOSTS = list(ENVIRONMENT.allowed_hosts)
CSRF_TRUSTED_ORIGINS = list(ENVIRONMENT.csrf_trusted_origins)
ROOT_URLCONF = "pipelinepulse.urls"
WSGI_APPLICATION = "pipelinepulse.wsgi.application"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
LANGUAGE_CODE = "en"
USE_TZ = True
TIME_ZONE = "UTC"
FORMAT_MODULE_PATH = ["pipelinepulse.formats"]

INSTALLED_APPS = [
    "pipelinepulse.admin_site.PulseAdminConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "axes",
    "django_celery_beat",
    "django_filters",
    "django_htmx",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "rest_framework",
    "rest_framework.authtoken",
    "simple_history",
    "template_partials",
    "pipelinepulse",
    "crm",
    "o2r",
    "health",
]

MIDDLEWARE = [
    "pipelinepulse.probes.ProbeMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "pipelinepulse.security.HeadersMiddleware",
    "csp.middleware.CSPMiddleware",
    "crm.webhook.DoorMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "pipelinepulse.security.SessionAgeMiddleware",
    "django.contrib.auth.middleware.LoginRequiredMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "simple_history.middleware.HistoryRequestMiddleware",
    "axes.middleware.AxesMiddleware",
    "pipelinepulse.admin_site.BusinessZoneMiddleware",
]

# template_partials puts its loader, with the cached one, around the usual two.
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
            ],
            "builtins": ["template_partials.templatetags.partials"],
        },
    }
]

# --- database, cache -----------------------------------------------------------------------
DATABASES = {"default": {**ENVIRONMENT.database, "ATOMIC_REQUESTS": False}}

REDIS_URL = ENVIRONMENT.redis_url
# redis-py and the broker library write a socket's address differently.
REDIS_CLIENT_URL = REDIS_URL.replace("redis+socket://", "unix://", 1)
CACHES = {
    "default": {
        "BACKEND": "pipelinepulse.cache.ForgivingRedisCache",
        "LOCATION": REDIS_CLIENT_URL,
        "KEY_PREFIX": "pulse",
        "OPTIONS": {"socket_connect_timeout": 0.5, "socket_timeout": 1},
    }
    if REDIS_URL
    else {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}
}

# --- Celery --------------------------------------------------------------------------------
CELERY_BROKER_URL = REDIS_URL or "memory://"
CELERY_BROKER_CONNECTION_TIMEOUT = 2
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_TRANSPORT_OPTIONS = {
    # Longer than the longest task, or it runs twice at once.
    "visibility_timeout": 3600,
    # Without these two, work of a killed worker comes back after 100 s instead of 10.
    "unacked_restore_interval": 10,
    "unacked_restore_throttle": 1,
    "socket_connect_timeout": 1,
    "socket_timeout": 5,
    "socket_keepalive": True,
    # Publishing to a broker that is down must fail at once: the row is the truth, Beat sweeps.
    "max_retries": 1,
    "interval_start": 0,
    "interval_max": 0.2,
}
CELERY_TASK_PUBLISH_RETRY = False
CELERY_TASK_SERIALIZER = "json"
CELERY_ACCEPT_CONTENT = ["json"]
CELERY_TASK_ACKS_LATE = True
CELERY_TASK_REJECT_ON_WORKER_LOST = True
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_TASK_IGNORE_RESULT = True
CELERY_RESULT_BACKEND = None
CELERY_TASK_SOFT_TIME_LIMIT = 1500
CELERY_TASK_TIME_LIMIT = 1800
CELERY_WORKER_SOFT_SHUTDOWN_TIMEOUT = 20
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_WORKER_SEND_TASK_EVENTS = False
CELERY_WORKER_CANCEL_LONG_RUNNING_TASKS_ON_CONNECTION_LOSS = False
# When it last ran stands in the database at once: `manage.py alive beat` reads it there.
CELERY_BEAT_SYNC_EVERY = 1
CELERY_BEAT_SCHEDULER = "pipelinepulse.beat:Scheduler"
# What a lost nudge missed is found by these; delta and full sync are rows that ops edit.
CELERY_BEAT_SCHEDULE = {
    "crm: sweep": {
        "task": "crm.tasks.sweep",
        "schedule": SWEEP_SECONDS,
        "options": {"expires": SWEEP_SECONDS * 4},
    },
    "crm: sweep the inbox": {
        "task": "crm.tasks.sweep_notices",
        "schedule": SWEEP_SECONDS,
        "options": {"expires": SWEEP_SECONDS * 4},
    },
    "crm: sweep the outbox": {
        "task": "crm.tasks.sweep_changes",
        "schedule": SWEEP_SECONDS,
        "options": {"expires": SWEEP_SECONDS * 4},
    },
    "o2r: follow the mirror": {
        "task": "o2r.tasks.recompute",
        "schedule": SWEEP_SECONDS * 4,
        "options": {"expires": SWEEP_SECONDS * 16},
    },
    "o2r: the daily turn": {
        "task": "o2r.tasks.turn",
        "schedule": SWEEP_SECONDS * 4,
        "options": {"expires": SWEEP_SECONDS * 16},
    },
}
CELERY_TIMEZONE = "UTC"
CELERY_ENABLE_UTC = True

# --- who may come in -----------------------------------------------------------------------
AUTHENTICATION_BACKENDS = [
    "axes.backends.AxesStandaloneBackend",
    "django.contrib.auth.backends.ModelBackend",
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]
PASSWORD_HASHERS = [
    "django.contrib.auth.hashers.Argon2PasswordHasher",
    "django.contrib.auth.hashers.PBKDF2PasswordHasher",
]
LOGIN_URL = "/login"
LOGIN_REDIRECT_URL = "/"
LOGOUT_REDIRECT_URL = "/login"

AXES_FAILURE_LIMIT = 8
AXES_COOLOFF_TIME = timedelta(minutes=15)
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]
AXES_RESET_ON_SUCCESS = True
AXES_HTTP_RESPONSE_CODE = 429
AXES_VERBOSE = False
AXES_LOCKOUT_TEMPLATE = "429.html"

OVER_HTTPS = APP_BASE_URL.startswith("https://")
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = OVER_HTTPS
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = CSRF_COOKIE_SAMESITE = "Lax"
# Two runs side by side on one machine differ in port only, and cookies ignore ports.
SESSION_COOKIE_NAME = f"pulse_session_{PORT}" if EMBEDDED else "pulse_session"
CSRF_COOKIE_NAME = f"pulse_csrf_{PORT}" if EMBEDDED else "pulse_csrf"
SESSION_IDLE = timedelta(hours=12)
SESSION_ABSOLUTE = timedelta(days=7)
SESSION_COOKIE_AGE = int(SESSION_ABSOLUTE.total_seconds())
SECURE_HSTS_SECONDS = 31_536_000 if OVER_HTTPS else 0
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
SECURE_CROSS_ORIGIN_OPENER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [SELF],
        "script-src": [SELF],
        "style-src": [SELF],
        "img-src": [SELF, "data:"],
        "object-src": [NONE],
        "base-uri": [NONE],
        "form-action": [SELF],
        "frame-ancestors": [NONE],
    }
}
DATA_UPLOAD_MAX_MEMORY_SIZE = 2_500_000

# --- files, mail, log ----------------------------------------------------------------------
STATIC_URL = "/static/"
# A run collects its own; an image brings them along, beside the code.
STATIC_ROOT = PULSE_HOME / "static" if EMBEDDED else BASE_DIR / "staticfiles"
STATICFILES_DIRS = [BASE_DIR / "static"]
_hashed = (
    # Compressing takes half a minute and saves nothing on the same machine.
    "django.contrib.staticfiles.storage.ManifestStaticFilesStorage"
    if EMBEDDED
    else "whitenoise.storage.CompressedManifestStaticFilesStorage"
)
_plain = "django.contrib.staticfiles.storage.StaticFilesStorage"
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": _hashed if ENVIRONMENT.static_hashed else _plain},
}
# Without hashed names (development, tests) files are looked up when asked for, not at start.
WHITENOISE_USE_FINDERS = WHITENOISE_AUTOREFRESH = not ENVIRONMENT.static_hashed

vars().update(ENVIRONMENT.email)
DEFAULT_FROM_EMAIL = "Pipeline Pulse <pipeline-pulse@localhost>"

logs.configure_structlog()
LOGGING = logs.configuration(
    level=ENVIRONMENT.log_level,
    form=ENVIRONMENT.log_format,
    secrets=[
        SECRET_KEY,
        *ENCRYPTION_KEYS,
        *WEBHOOK_TOKENS,
        *([ZOHO.client_secret, ZOHO.refresh_token] if ZOHO else []),
    ],
)

# --- API -----------------------------------------------------------------------------------
REST_FRAMEWORK = {
    # Token first: its WWW-Authenticate header makes the answer to nobody 401, not 403.
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "rest_framework.authentication.TokenAuthentication",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["crm.api.parsers.JSONParser"],
    "DEFAULT_CONTENT_NEGOTIATION_CLASS": "crm.api.negotiation.OneForm",
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "DEFAULT_THROTTLE_CLASSES": ["rest_framework.throttling.UserRateThrottle"],
    "DEFAULT_THROTTLE_RATES": {"user": ENVIRONMENT.api_throttle},
    "EXCEPTION_HANDLER": "pipelinepulse.api_errors.handle",
    "DEFAULT_METADATA_CLASS": None,
    # No `?format=`: a parameter that no view knows is refused.
    "URL_FORMAT_OVERRIDE": None,
    "COERCE_DECIMAL_TO_STRING": True,
    "TEST_REQUEST_DEFAULT_FORMAT": "json",
    "UNAUTHENTICATED_USER": "django.contrib.auth.models.AnonymousUser",
}
API_THROTTLE = ENVIRONMENT.api_throttle
# Who may do what with the mirror: the mirror itself knows no roles.
PERMISSIONS_MODULE = "o2r.permissions"
SPECTACULAR_SETTINGS = {
    "TITLE": "Pipeline Pulse",
    "DESCRIPTION": "Opportunities from first call to recognised revenue, mirrored from the CRM.",
    "VERSION": "1",
    "SERVE_INCLUDE_SCHEMA": False,
    "SERVE_PERMISSIONS": ["rest_framework.permissions.IsAuthenticated"],
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        "pipelinepulse.api_docs.describe_refusals",
        "pipelinepulse.api_docs.describe_webhook",
        "pipelinepulse.api_docs.by_chapter",
    ],
    # Fields of one name with different words: each set of words has a name of its own.
    "ENUM_NAME_OVERRIDES": {
        "ActivityTypeEnum": "o2r.models.work.Activity.TYPES",
        "ActivityOutcomeEnum": "o2r.models.work.Activity.OUTCOMES",
        "OutcomeEnum": "o2r.models.opportunity.OUTCOMES",
        "PhaseEnum": "o2r.api.work_serializers.PHASES",
        "SignalEnum": "o2r.models.opportunity.SIGNALS",
        "MilestoneStatusEnum": "o2r.models.milestones.STATUSES",
        "TimelineKindEnum": "o2r.timeline.KINDS",
        "RunStatusEnum": "crm.models.runs.STATUSES",
        "RunKindEnum": "crm.models.runs.KINDS",
        "ChannelStateEnum": "crm.sync.channel_state.STATES",
        "ChangeKindEnum": "crm.models.outbox.KINDS",
    },
    "TAGS": [
        {"name": "Opportunities", "description": "Deals and what they add up to."},
        {
            "name": "O2R",
            "description": "From first call to recognised revenue: phases, signals, milestones, "
            "and what people do about them.",
        },
        {"name": "Sync", "description": "How the mirror stands, its runs, and starting one."},
        {"name": "Mirror", "description": "What else is mirrored from the CRM, to read."},
    ],
    "SWAGGER_UI_DIST": "SIDECAR",
    # Its links to single operations are links within buttons, which no keyboard can tell apart.
    "SWAGGER_UI_SETTINGS": {"deepLinking": False},
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "REDOC_DIST": "SIDECAR",
}
