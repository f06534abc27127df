//! Who may come in, and who may do what.

use super::{FLAG, TABLE};
use crate::document::{Key, Section};

/// Who may come in.
pub static AUTHENTICATION: Section = Section {
    name: "authentication",
    about: "Who may come in.",
    keys: &[
        Key {
            name: "password_file",
            expects: "the path of a file written by \"tidegate passwd\" or mosquitto_passwd",
            default: "none",
            about: "Users and the hashes of their passwords.",
        },
        Key {
            name: "failures_max",
            expects: "an integer",
            default: "10",
            about: "Failed logins from one address that are free, or from one /64 of IPv6, or by a Unix socket of one \
                    user; 0: all of them. Further ones delay whoever comes from there. This machine's are not counted.",
        },
        Key {
            name: "failures_window",
            expects: "a duration such as \"1m\"",
            default: "\"1m\"",
            about: "The time in which as many failures are forgotten.",
        },
        Key {
            name: "delay_max",
            expects: "a duration such as \"5m\"",
            default: "\"5m\"",
            about: "The longest delay; the first is a second, and each twice the last.",
        },
        Key {
            name: "jwt",
            expects: TABLE,
            default: "none: no tokens",
            about: "JSON Web Tokens in the place of passwords.",
        },
    ],
};

/// Tokens.
pub static JWT: Section = Section {
    name: "authentication.jwt",
    about: "A client's password may be a JSON Web Token (RFC 7519); when it expires the connection ends.",
    keys: &[
        Key {
            name: "keys",
            expects: "the path of a file with public keys, PEM or a JSON Web Key set, or a list of them",
            default: "must be there without secret",
            about: "What signatures are verified with; RSA keys verify RS256, P-256 ES256, and Ed25519 EdDSA.",
        },
        Key {
            name: "secret",
            expects: "the path of a file with at least 32 characters",
            default: "none",
            about: "The secret shared with the issuer, for HS256.",
        },
        Key {
            name: "algorithms",
            expects: "a list of \"RS256\", \"ES256\", \"EdDSA\" and \"HS256\"",
            default: "those of the keys",
            about: "The algorithms that are allowed; keys of others are left out.",
        },
        Key {
            name: "issuer",
            expects: "a text such as \"https://issuer.example\"",
            default: "none: any",
            about: "What iss must be.",
        },
        Key {
            name: "audience",
            expects: "a text such as \"gateway-7\"",
            default: "none: any",
            about: "What aud must be, or hold.",
        },
        Key {
            name: "user_claim",
            expects: "the name of a claim",
            default: "\"sub\"",
            about: "The claim that is the user name; one that a client says itself must be the same, or empty.",
        },
        Key {
            name: "client_id_claim",
            expects: "the name of a claim",
            default: "none: a token is good for any client identifier",
            about: "The claim that the client identifier must be.",
        },
        Key {
            name: "groups_claim",
            expects: "the name of a claim",
            default: "none: a token says nothing of groups",
            about: "The claim with groups of [access.groups] that the user is in, a list or one.",
        },
        Key {
            name: "leeway",
            expects: "a duration such as \"30s\"",
            default: "\"30s\"",
            about: "By how much the issuer's clock and this one may differ.",
        },
        Key {
            name: "token_bytes_max",
            expects: "a size such as \"4 KiB\"",
            default: "\"4 KiB\"",
            about: "The longest token.",
        },
    ],
};

/// Who may do what.
pub static ACCESS: Section = Section {
    name: "access",
    about: "Who may publish and read what; once this table is there, nothing that no rule allows.",
    keys: &[
        Key {
            name: "acl_file",
            expects: "the path of a file in the form of mosquitto's acl_file",
            default: "none",
            about: "More rules, asked after those of this file.",
        },
        Key {
            name: "groups",
            expects: "a table [access.groups] with lines such as operators = [\"ann\", \"bob\"]",
            default: "none",
            about: "Users that rules name together.",
        },
        Key {
            name: "rule",
            expects: "tables such as [[access.rule]]",
            default: "none",
            about: "The rules in their order; the first that fits decides.",
        },
    ],
};

/// A rule.
pub static ACCESS_RULE: Section = Section {
    name: "access.rule",
    about: "A rule: what whoever it binds may do, or may not; it binds every client where it names nobody.",
    keys: &[
        Key {
            name: "allow",
            expects: ACTIONS,
            default: "this or deny must be there",
            about: "What is granted; \"read\" is to subscribe and to receive, \"readwrite\" or \"all\" is everything.",
        },
        Key {
            name: "deny",
            expects: ACTIONS,
            default: "this or allow must be there",
            about: "What is refused.",
        },
        Key {
            name: "topics",
            expects: "a topic filter such as \"plant/%u/#\", or a list of them",
            default: "must be there",
            about: "With which topics; %u alone in a level is the client's user name there, %c its client identifier.",
        },
        Key {
            name: "user",
            expects: "a user name, or a list of them",
            default: "none",
            about: "The users it binds.",
        },
        Key {
            name: "group",
            expects: "a name of [access.groups], or a list of them",
            default: "none",
            about: "The groups whose users it binds.",
        },
        Key {
            name: "anonymous",
            expects: FLAG,
            default: "false",
            about: "Whether it binds clients without a user name.",
        },
        Key {
            name: "client",
            expects: "a client identifier",
            default: "any",
            about: "The one client it is for, among those it binds; who knows the identifier can come with it.",
        },
    ],
};

const ACTIONS: &str = "\"publish\", \"subscribe\", \"receive\", \"read\", \"readwrite\", or a list of them";
