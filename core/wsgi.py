"""WSGI entry point (granian, threads)."""

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "core.settings")
application = get_wsgi_application()

# Here rather than with the first page that shows an interval. Commands, which do not come by here, do without.
import scipy.special  # noqa: E402, F401
