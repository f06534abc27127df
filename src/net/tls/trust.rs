//! Which client certificates are accepted: from which authorities, and what their revocation lists say.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateRevocationListDer;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};

use super::error::TlsError;
use super::files::{read_authorities, read_revocation_lists};
use super::x509::ListDates;

/// Which client certificates are accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientTrust {
    /// PEM files, at least one: the authorities, each file with one or more. While one authority follows another, both
    /// are listed.
    pub ca: Vec<PathBuf>,
    /// PEM or DER files: the certificates that those authorities took back. Without any nothing is checked.
    pub crl: Vec<PathBuf>,
    /// What becomes of a certificate whose issuer has no list among these.
    pub crl_missing: Doubt,
    /// What becomes of a certificate whose issuer's list was due to be replaced and was not.
    pub crl_expired: Doubt,
    /// Which certificates are looked up.
    pub crl_depth: CrlDepth,
}

/// What becomes of a client whose certificate may have been revoked, for all that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Doubt {
    /// It is refused.
    #[default]
    Refuse,
    /// It is accepted.
    Accept,
}

/// Which certificates are looked up in revocation lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CrlDepth {
    /// The client's own and those between it and the authority.
    #[default]
    Chain,
    /// The client's own.
    Client,
}

/// Files of authorities, and files of lists: each may be a megabyte, and some boards have little memory.
pub const TRUST_FILES_MAX: usize = 16;

impl ClientTrust {
    /// Accepts what the authorities of one PEM file have signed; nothing is revoked.
    pub fn of(ca: impl Into<PathBuf>) -> Self {
        Self {
            ca: vec![ca.into()],
            crl: Vec::new(),
            crl_missing: Doubt::Refuse,
            crl_expired: Doubt::Refuse,
            crl_depth: CrlDepth::Chain,
        }
    }

    /// Reads the files; what checks client certificates by them, and when the lists were or are due to be replaced.
    pub(super) fn read(
        &self,
        provider: &Arc<CryptoProvider>,
        is_optional: bool,
    ) -> Result<Reading, TlsError> {
        let mut roots = RootCertStore::empty();
        for file in &self.ca {
            read_authorities(file, &mut roots)?;
        }
        let roots = Arc::new(roots);
        let mut lists = Vec::new();
        for file in &self.crl {
            for list in read_revocation_lists(file)? {
                lists.push(List::read(file, list)?);
            }
        }
        // Of several lists of one issuer the first is asked, so the newest comes first.
        lists.sort_by_key(|list| std::cmp::Reverse(list.issued_at));
        let due = lists.iter().map(|list| (list.file.to_owned(), list.due_at));
        let due = due.collect();

        let builder =
            || WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(provider));
        let mut all = builder().with_crls(lists.iter().map(|list| list.der.clone()));
        if is_optional {
            all = all.allow_unauthenticated();
        }
        if self.crl_missing == Doubt::Accept {
            all = all.allow_unknown_revocation_status();
        }
        if self.crl_expired == Doubt::Refuse {
            all = all.enforce_revocation_expiration();
        }
        if self.crl_depth == CrlDepth::Client {
            all = all.only_check_end_entity_revocation();
        }
        let verifier = all.build().map_err(|error| {
            // One by one, to tell which file is at fault.
            let is_wrong = |list: &&List<'_>| builder().with_crls([list.der.clone()]).build().is_err();
            match error {
                VerifierBuilderError::InvalidCrl(_) => {
                    let wrong = lists.iter().find(is_wrong).map(|list| list.file);
                    TlsError::bad_crl(wrong.unwrap_or(Path::new("")), error)
                }
                _ => TlsError::bad(self.ca.first().map_or(Path::new(""), PathBuf::as_path), error),
            }
        })?;
        Ok(Reading { verifier, due })
    }
}

/// What [`ClientTrust::read`] found.
pub(super) struct Reading {
    pub(super) verifier: Arc<dyn ClientCertVerifier>,
    /// By file, when its list is to be replaced, in seconds of Unix time.
    pub(super) due: Vec<(PathBuf, i64)>,
}

/// One revocation list.
struct List<'f> {
    file: &'f Path,
    der: CertificateRevocationListDer<'static>,
    issued_at: i64,
    due_at: i64,
}

impl<'f> List<'f> {
    fn read(file: &'f Path, der: CertificateRevocationListDer<'static>) -> Result<Self, TlsError> {
        let dates = ListDates::from_der(&der).map_err(|error| TlsError::bad_crl(file, error))?;
        let Some(due_at) = dates.next_update else {
            return Err(TlsError::bad_crl(
                file,
                "it does not say when it is to be replaced",
            ));
        };
        Ok(Self {
            file,
            der,
            issued_at: dates.this_update,
            due_at,
        })
    }
}
