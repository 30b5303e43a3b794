"""The fixtures that every other test stands on."""

from __future__ import annotations

from django.db import connection

from tests.conftest import PASSWORD


def test_a_database_test_runs_in_alpha(db, alpha):
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_schema()")
        assert cursor.fetchone() == ("alpha",)
    assert connection.schema_name == "alpha"


def test_users_of_alpha_and_beta_live_in_their_own_schema(alice, mallory, alpha, beta, in_tenant):
    from tenants.accounts.models import User

    assert set(User.objects.values_list("email", flat=True)) == {alice.email}
    with in_tenant(beta):
        assert set(User.objects.values_list("email", flat=True)) == {mallory.email}
    assert alice.check_password(PASSWORD)


class TestCommitsAreUndone:
    def test_a_test_that_commits(self, transactional_db, alice):
        assert not connection.in_atomic_block

    def test_leaves_nothing_to_the_next(self, db, alpha):
        from tenants.accounts.models import User

        assert User.objects.count() == 0
        assert alpha.name == "Alpha Ltd"
