from tests.integration.conftest import corpus

__all__ = ["corpus"]
