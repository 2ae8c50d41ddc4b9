"""Requests to AWS, signed with its credentials: signature version 4."""

from __future__ import annotations

import importlib
import re
import threading
from typing import Any
from urllib.parse import urlsplit

from ...exceptions import ServiceError
from .adapter import Request
from .keys import is_loopback

__all__ = ["Signer"]

_REGION = re.compile(r"(?:^|\.)([a-z]{2}(?:-[a-z]+)+-\d+)\.")


class Signer:
    """Signs requests with the credentials that AWS's own tools find, and that renew themselves.

    It holds credentials, so adapters keep it among their `_live_attributes`. It needs ``pip install "blackvip[aws]"``.

    Parameters
    ----------
    service : str
        Name of the service in signatures, such as "rekognition".
    asked_by : str
        Name of the adapter, for errors.
    """

    def __init__(self, service: str, asked_by: str):
        self.service = service
        self._asked_by = asked_by
        self._loading = threading.Lock()
        # A profile, its session and the session's credentials.
        self._session: tuple[str | None, Any, Any] | None = None

    def headers(
        self, request: Request, url: str, body: bytes, region: str | None = None, profile: str | None = None
    ) -> dict[str, str]:
        """Return the headers with the signature of a request.

        Parameters
        ----------
        request : Request
        url : str
            Full url of the request, with its query.
        body : bytes
        region : str or None, default=None
            AWS region. None: the one in the url, else that of the AWS configuration.
        profile : str or None, default=None
            Profile in the AWS configuration. None: the default profile.

        Returns
        -------
        headers : dict
            Header names to values.

        Raises
        ------
        ServiceError
            If there are no credentials or no region, or if the request would not be encrypted.
        """
        parts = urlsplit(url)
        if parts.scheme != "https" and not is_loopback(parts.hostname):
            raise ServiceError(
                f"Signed requests would go to {parts.hostname} without encryption; expected an https url."
            )
        session, credentials = self._credentials(profile)
        named = _REGION.search(parts.hostname or "")
        region = region or (named and named[1]) or session.get_config_variable("region")
        if not region:
            raise ServiceError(
                f"The url {url!r} does not name an AWS region; expected one there, or region, such as "
                "region='eu-west-1'."
            )
        signed = self._botocore("awsrequest").AWSRequest(request.method, url, dict(request.headers), body)
        signer = self._botocore("auth").SigV4Auth
        signer(credentials.get_frozen_credentials(), self.service, region).add_auth(signed)
        return {name: value for name, value in signed.headers.items() if name not in request.headers}

    def _credentials(self, profile: str | None) -> tuple[Any, Any]:
        """Return a session and its self-renewing credentials."""
        with self._loading:
            if self._session is None or self._session[0] != profile:
                try:
                    session = self._botocore("session").Session(profile=profile)
                    credentials = session.get_credentials()
                except self._botocore("exceptions").BotoCoreError as error:
                    raise ServiceError(f"AWS credentials cannot be loaded: {error}.") from None
                if credentials is None:
                    raise ServiceError(
                        "There are no AWS credentials; expected AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the "
                        "environment, a profile in the AWS configuration, or a role of this machine."
                    )
                self._session = (profile, session, credentials)
            return self._session[1:]

    def _botocore(self, module: str) -> Any:
        """Import a module of botocore, which only signatures need."""
        try:
            return importlib.import_module(f"botocore.{module}")
        except ImportError as error:
            raise ImportError(
                f"{self._asked_by} needs the package {error.name}, which is not installed. "
                'Run pip install "blackvip[aws]".',
                name=error.name,
            ) from error
