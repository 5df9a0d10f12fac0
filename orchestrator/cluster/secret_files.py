"""Files that hold secrets, as their names tell.

A job's files can be read by whoever holds the cluster's token, and stay on its machines. The failure this guards
against: a folder that is sent whole, with the password file that everybody's tools look for in it.
"""

from collections.abc import Collection, Iterable
from pathlib import Path, PurePath

from pathspec import GitIgnoreSpec

from workloads.errors import InputError

# As in a .gitignore, so that a folder's name covers all that is in it.
_SECRET = GitIgnoreSpec.from_lines(
    (
        *(".env", ".env.*", "*.env", ".envrc", "!.env.example", "!.env.sample", "!.env.template"),
        *(".aws/", ".ssh/", ".gnupg/", ".azure/", "**/.config/gcloud/", "application_default_credentials.json"),
        *("**/.ray/auth_token", "**/.kube/config", "**/.docker/config.json", "**/.huggingface/token"),
        *("**/.cache/huggingface/token", ".netrc", "_netrc", ".git-credentials", ".pypirc", ".npmrc", ".pgpass"),
        *(".boto", ".s3cfg", ".dockercfg", "id_rsa", "id_dsa", "id_ecdsa", "id_ed25519"),
        *("*.pem", "*.key", "*.p12", "*.pfx", "*.ppk", "*.keystore", "*.jks"),
    )
)
_NAMED = 8


def refuse_secrets(folder: Path, places: Iterable[Path], told: Collection[str]) -> None:
    """Refuse to send files whose names say that they hold secrets, but for those that one was `told` to send.

    Raises:
        InputError: there are some, or what was told is not among the files.
    """
    places = list(places)
    unknown = sorted(set(told) - {place.as_posix() for place in places})
    if unknown:
        raise InputError(f"--send {unknown[0]}: no file of this name is among those that are sent from {folder}")
    found = [place.as_posix() for place in places if _is_secret(folder, place) and place.as_posix() not in told]
    if found:
        more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        raise InputError(
            f"{folder} would send files that hold secrets by their names: {', '.join(found[:_NAMED])}{more}; name them "
            "in .gitignore or .rayignore, or send each on purpose with --send FILE"
        )


def _is_secret(folder: Path, place: PurePath) -> bool:
    # Somebody may stand in ~/.aws itself.
    whole = PurePath(*folder.parts[1:], place).as_posix() if folder.is_absolute() else place.as_posix()
    return _SECRET.match_file(whole.lower())
