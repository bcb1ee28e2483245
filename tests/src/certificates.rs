//! Certificates for tests.

use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

/// Makes an authority and a certificate of it for this machine: `NAME-ca.pem`, `NAME.pem`, `NAME.key`.
pub fn make_certificates(folder: &Path, name: &str) {
    let mut params = CertificateParams::new(Vec::new()).expect("certificates can be made");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority =
        CertifiedIssuer::self_signed(params, KeyPair::generate().expect("certificates can be made"))
            .expect("certificates can be made");
    let key = KeyPair::generate().expect("certificates can be made");
    let params = CertificateParams::new(vec!["localhost".into(), "127.0.0.1".into()])
        .expect("certificates can be made");
    let certificate = params.signed_by(&key, &authority).expect("certificates can be made");
    let write = |file: String, text: String| {
        std::fs::write(folder.join(file), text).expect("certificates can be made")
    };
    write(format!("{name}-ca.pem"), authority.pem());
    write(format!("{name}.pem"), certificate.pem());
    write(format!("{name}.key"), key.serialize_pem());
}
