"""The base of every body the API reads."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers


class Body(serializers.Serializer[Any]):
    """A body: unknown names are refused, so that a typing error is noticed."""

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, dict):
            unknown = sorted(set(data) - set(self.fields))
            if unknown:
                raise serializers.ValidationError(
                    {
                        name: [f"Is not known here. Known are: {', '.join(self.fields)}."]
                        for name in unknown[:5]
                    }
                )
        return super().to_internal_value(data)
