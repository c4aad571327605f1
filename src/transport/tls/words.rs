//! Why TLS has failed, in words that say which check it was. Decides nothing.

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage, OtherError, PeerIncompatible};

/// One line for the log.
pub(super) fn words(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(why) => certificate(why),
        Error::NoCertificatesPresented => "no client certificate was shown".to_owned(),
        Error::AlertReceived(alert) => alert_words(*alert),
        Error::PeerIncompatible(why) => incompatible(why),
        Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "what came is not TLS: plaintext, most likely".to_owned()
        }
        Error::InvalidMessage(InvalidMessage::UnknownProtocolVersion) => {
            "protocol version: TLS 1.2 and 1.3 are spoken here".to_owned()
        }
        other => format!("TLS: {other}"),
    }
}

fn certificate(why: &CertificateError) -> String {
    match why {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "the peer's certificate has expired".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "the peer's certificate is not valid yet".to_owned()
        }
        CertificateError::UnknownIssuer => {
            "the peer's certificate is of an unknown CA: none that is trusted here has signed it".to_owned()
        }
        CertificateError::BadSignature => {
            "the peer's certificate is of an unknown CA: its signature is not of the one that it names"
                .to_owned()
        }
        CertificateError::NotValidForName => "the peer's certificate has another name".to_owned(),
        CertificateError::NotValidForNameContext { expected, presented } => {
            let names = match presented.as_slice() {
                [] => "it has none (its subject's CN is not looked at)".to_owned(),
                names => format!("it is for {}", names.join(" and ")),
            };
            format!("the peer's certificate has another name than {}: {names}", expected.to_str())
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "the peer's certificate is not for this purpose (extended key usage)".to_owned()
        }
        CertificateError::Other(other) if is_of_a_ca(other) => {
            "the peer's certificate is that of a CA: trusted is one that a CA has signed, or that stands itself among \
             those that are trusted"
                .to_owned()
        }
        other => format!("the peer's certificate is refused: {other}"),
    }
}

fn is_of_a_ca(error: &OtherError) -> bool {
    matches!(error.0.downcast_ref::<webpki::Error>(), Some(webpki::Error::CaUsedAsEndEntity))
}

/// What the peer has against us.
fn alert_words(alert: AlertDescription) -> String {
    let why = match alert {
        AlertDescription::CertificateRequired => "it wants a certificate",
        AlertDescription::UnknownCA => "it does not know the CA of our certificate",
        AlertDescription::CertificateExpired => "our certificate has expired",
        AlertDescription::CertificateRevoked => "our certificate is revoked",
        AlertDescription::BadCertificate | AlertDescription::CertificateUnknown => {
            "it does not accept our certificate"
        }
        AlertDescription::UnsupportedCertificate => "our certificate is not for this purpose",
        AlertDescription::ProtocolVersion => "it speaks neither TLS 1.2 nor 1.3",
        AlertDescription::HandshakeFailure => "no common cipher suite, or it wants a certificate",
        AlertDescription::UnrecognisedName => "it does not know the name that it was called by",
        other => return format!("the peer has refused: TLS alert {other:?}"),
    };
    format!("the peer has refused: {why}")
}

fn incompatible(why: &PeerIncompatible) -> String {
    match why {
        // Every client that speaks TLS 1.2 names what signatures it takes.
        PeerIncompatible::ServerDoesNotSupportTls12Or13
        | PeerIncompatible::SignatureAlgorithmsExtensionRequired
        | PeerIncompatible::SupportedVersionsExtensionRequired
        | PeerIncompatible::Tls12NotOffered
        | PeerIncompatible::Tls12NotOfferedOrEnabled
        | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig => {
            "protocol version: the peer speaks neither TLS 1.2 nor 1.3".to_owned()
        }
        PeerIncompatible::NoCipherSuitesInCommon => "no common cipher suite".to_owned(),
        other => format!("the peer's TLS does not fit: {other:?}"),
    }
}
