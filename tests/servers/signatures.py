"""AWS's signatures, computed another way."""

import hashlib
import hmac


def signature_by_hand(secret, method, path, headers, signed, body, region, service):
    """Signature version 4 as AWS's documentation spells it out."""
    canonical = [method, path, "", *(f"{name}:{headers[name].strip()}" for name in signed), "", ";".join(signed)]
    canonical.append(hashlib.sha256(body).hexdigest())
    date = headers["x-amz-date"]
    scope = f"{date[:8]}/{region}/{service}/aws4_request"
    to_sign = ["AWS4-HMAC-SHA256", date, scope, hashlib.sha256("\n".join(canonical).encode()).hexdigest()]
    key = f"AWS4{secret}".encode()
    for part in scope.split("/"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return hmac.new(key, "\n".join(to_sign).encode(), hashlib.sha256).hexdigest()
