//! The password file: `NAME:$argon2id$…`, one user a line; and the check of one password.
