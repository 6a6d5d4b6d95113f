//! Places in a file system, and what may be expected there.

/// Where any user may write, and what is gone after a restart.
const TEMPORARY: &[&str] = &["/tmp/", "/var/tmp/", "/dev/", "/run/shm/", "/run/lock/", "/proc/"];
/// Where users keep what is theirs.
const HOMES: &[&str] = &["/home/", "/root/", "/var/home/"];
/// Where packages put programs and libraries.
const INSTALLED: &[&str] = &[
    "/usr/",
    "/bin/",
    "/sbin/",
    "/lib/",
    "/lib32/",
    "/lib64/",
    "/libx32/",
    "/opt/",
    "/nix/store/",
    "/gnu/store/",
    "/snap/",
    "/app/",
    "/var/lib/",
    "/run/current-system/",
    "/ostree/",
];

/// A place where packages put programs.
pub(super) fn is_installed(path: &str) -> bool {
    INSTALLED.iter().any(|place| path.starts_with(place))
}

/// A place that any user may write to.
pub(super) fn is_temporary(path: &str) -> bool {
    TEMPORARY.iter().any(|place| path.starts_with(place))
}

/// Below a user's own folder.
pub(super) fn is_home(path: &str) -> bool {
    HOMES.iter().any(|place| path.starts_with(place))
}

/// Whether the file, or a folder on the way to it, is left out of listings.
pub(super) fn is_hidden(path: &str) -> bool {
    path.split('/').any(|part| part.starts_with('.') && part != "." && part != "..")
}

/// The file's own name.
pub(super) fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}
