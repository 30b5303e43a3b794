"""REST of users and API keys."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from core.api.endpoint import Endpoint
from core.api.serializers import Body
from core.errors import NotFound
from core.security.actor import current_actor
from tenants.accounts import services
from tenants.accounts.models import ApiKey, Role, User


class UserOut(serializers.ModelSerializer[User]):
    """A person."""

    roles = serializers.ListField(child=serializers.CharField())

    class Meta:
        model = User
        fields = ["id", "email", "name", "roles", "is_active", "time_zone", "last_seen_at", "created_at"]


class UserIn(Body):
    """A new person; the password is handed out and must be changed at the first sign-in."""

    email = serializers.CharField(max_length=254)
    name = serializers.CharField(max_length=120)
    roles = serializers.ListField(child=serializers.ChoiceField(choices=Role.choices), max_length=8)
    password = serializers.CharField(max_length=1000, trim_whitespace=False)
    time_zone = serializers.CharField(max_length=64, default="UTC")


class UserEdit(Body):
    """What can change of a person."""

    name = serializers.CharField(max_length=120, required=False)
    roles = serializers.ListField(
        child=serializers.ChoiceField(choices=Role.choices), max_length=8, required=False
    )
    is_active = serializers.BooleanField(required=False)


class KeyOut(serializers.ModelSerializer[ApiKey]):
    """An API key; its secret is not kept."""

    scopes = serializers.ListField(child=serializers.CharField())
    created_by = serializers.PrimaryKeyRelatedField(read_only=True, allow_null=True)

    class Meta:
        model = ApiKey
        fields = [
            "key_id",
            "name",
            "scopes",
            "created_by",
            "created_at",
            "expires_at",
            "revoked_at",
            "last_used_at",
        ]


class KeyIssued(serializers.Serializer[Any]):
    """A new key with its text, shown this once."""

    key = KeyOut()
    text = serializers.CharField()


class KeyIn(Body):
    """A new key. Nobody can put more into it than they may do themselves."""

    name = serializers.CharField(max_length=80)
    scopes = serializers.ListField(child=serializers.CharField(max_length=40), max_length=100)
    expires_at = serializers.DateTimeField(required=False, allow_null=True, default=None)


class MeOut(serializers.Serializer[Any]):
    """Who the caller is."""

    kind = serializers.CharField()
    id = serializers.CharField(allow_blank=True)
    label = serializers.CharField(allow_blank=True)
    roles = serializers.ListField(child=serializers.CharField())
    scopes = serializers.ListField(child=serializers.CharField())
    schema = serializers.CharField(allow_blank=True)


class Me(Endpoint):
    """The caller."""

    actions = {"GET": "me.view"}
    queryset = User.objects.all()
    permission_classes = []

    @extend_schema(operation_id="me", responses=MeOut)
    def get(self, request: Request) -> Response:
        """Who you are, and in which tenant."""
        actor = current_actor()
        if actor.kind == "anonymous":
            self.permission_denied(request, "Send an API key: “Authorization: Bearer sgn_…”.")
        return Response(MeOut(actor).data)


class Users(Endpoint):
    """Users."""

    actions = {"GET": "user.view", "POST": "user.manage"}
    queryset = User.objects.all()
    ordering = ("id",)

    @extend_schema(operation_id="users_list", responses=UserOut(many=True))
    def get(self, request: Request) -> Response:
        """List users."""
        return self.page(UserOut, User.objects.all())

    @extend_schema(operation_id="users_create", request=UserIn, responses={201: UserOut})
    def post(self, request: Request) -> Response:
        """Add a user; admins only, never by key."""
        return self.one(UserOut, services.user_create(**self.given(UserIn)), status=201)


class UserOne(Endpoint):
    """One user."""

    actions = {"GET": "user.view", "PATCH": "user.manage"}
    queryset = User.objects.all()

    @extend_schema(operation_id="users_retrieve", responses=UserOut)
    def get(self, request: Request, pk: int) -> Response:
        """One user."""
        return self.one(UserOut, services.user_get(pk))

    @extend_schema(operation_id="users_update", request=UserEdit, responses=UserOut)
    def patch(self, request: Request, pk: int) -> Response:
        """Change name, roles or whether they may sign in; admins only, never by key."""
        user = services.user_get(pk)
        self.ensure_match(UserOut, user)
        return self.one(UserOut, services.user_update(user=user, **self.given(UserEdit)))


class Keys(Endpoint):
    """API keys."""

    actions = {"GET": "key.view", "POST": "key.manage"}
    queryset = ApiKey.objects.all()
    idempotency_stores_response = False

    @extend_schema(operation_id="api_keys_list", responses=KeyOut(many=True))
    def get(self, request: Request) -> Response:
        """List keys, newest first."""
        return self.page(KeyOut, ApiKey.objects.all())

    @extend_schema(operation_id="api_keys_create", request=KeyIn, responses={201: KeyIssued})
    def post(self, request: Request) -> Response:
        """Issue a key; its text is in this answer and nowhere else."""
        issued = services.api_key_create(**self.given(KeyIn))
        return Response(KeyIssued({"key": issued.key, "text": issued.text}).data, status=201)


class KeyOne(Endpoint):
    """One API key."""

    actions = {"GET": "key.view", "DELETE": "key.manage"}
    queryset = ApiKey.objects.all()

    def _key(self, key_id: str) -> ApiKey:
        found = ApiKey.objects.filter(key_id=key_id).first()
        if found is None:
            raise NotFound("There is no such API key here.")
        return found

    @extend_schema(operation_id="api_keys_retrieve", responses=KeyOut)
    def get(self, request: Request, key_id: str) -> Response:
        """One key."""
        return self.one(KeyOut, self._key(key_id))

    @extend_schema(operation_id="api_keys_revoke", responses=KeyOut)
    def delete(self, request: Request, key_id: str) -> Response:
        """Revoke a key; it is refused from now on and stays in the list."""
        self.ensure_match(KeyOut, self._key(key_id))
        return self.one(KeyOut, services.api_key_revoke(key_id=key_id))
