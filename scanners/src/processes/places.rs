//! Places in a file system, and what may be expected there.

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
