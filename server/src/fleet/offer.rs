//! What a worker says of itself, checked.

use tonic::Status;
use wardian_proto::{reapi, wardian};
use wardian_scheduler::Offer;

/// Limits on what a worker says of itself.
const NAME_BYTES_MAX: usize = 128;
const PROPERTIES_MAX: usize = 256;
const PROPERTY_BYTES_MAX: usize = 1024;
pub(crate) const SLOTS_MAX: u32 = 1024;

/// Runs that a worker may take ahead for each of its slots.
pub(crate) const AHEAD_PER_SLOT_MAX: u32 = 4;

/// Runs that a worker may take ahead.
const AHEAD_MAX: u32 = SLOTS_MAX * AHEAD_PER_SLOT_MAX;

/// Reads an offer.
pub(super) fn parse(wire: &wardian::WorkerOffer) -> Result<Offer, Status> {
    let bad = |text: String| Err(Status::invalid_argument(format!("WorkerOffer: {text}")));
    for (field, text) in [("name", &wire.name), ("incarnation", &wire.incarnation)] {
        if text.is_empty() || text.len() > NAME_BYTES_MAX || text.chars().any(char::is_control) {
            return bad(format!("{field} must be 1 to {NAME_BYTES_MAX} bytes without control characters"));
        }
    }
    if wire.slots == 0 || wire.slots > SLOTS_MAX {
        return bad(format!("slots must be between 1 and {SLOTS_MAX}"));
    }
    if wire.ahead > AHEAD_MAX {
        return bad(format!("ahead must be at most {AHEAD_MAX}"));
    }
    if wire.properties.len() > PROPERTIES_MAX {
        return bad(format!("it has {} properties; limit is {PROPERTIES_MAX}", wire.properties.len()));
    }
    let mut offer = Offer {
        name: wire.name.clone(),
        slots: wire.slots as usize,
        memory_bytes: wire.memory_bytes,
        ahead: wire.ahead as usize,
        ..Offer::default()
    };
    for reapi::platform::Property { name, value } in &wire.properties {
        if name.is_empty() || name.len() + value.len() > PROPERTY_BYTES_MAX {
            return bad(format!("a property has no name, or more than {PROPERTY_BYTES_MAX} bytes"));
        }
        offer.properties.entry(name.clone()).or_default().push(value.clone());
    }
    Ok(offer)
}

/// The wire form of an offer.
pub(crate) fn to_wire(offer: &Offer) -> wardian::WorkerOffer {
    let property = |name: &String, value: &String| reapi::platform::Property {
        name: name.clone(),
        value: value.clone(),
    };
    let properties = offer.properties.iter();
    wardian::WorkerOffer {
        name: offer.name.clone(),
        properties: properties.flat_map(|(name, values)| values.iter().map(|v| property(name, v))).collect(),
        slots: u32::try_from(offer.slots).unwrap_or(u32::MAX),
        memory_bytes: offer.memory_bytes,
        ahead: u32::try_from(offer.ahead).unwrap_or(u32::MAX),
        version: env!("CARGO_PKG_VERSION").into(),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer() -> wardian::WorkerOffer {
        let property =
            |value: &str| reapi::platform::Property { name: "OSFamily".into(), value: value.into() };
        wardian::WorkerOffer {
            name: "w1".into(),
            incarnation: "a".into(),
            properties: vec![property("linux"), property("wasi")],
            slots: 2,
            memory_bytes: Some(5),
            version: env!("CARGO_PKG_VERSION").into(),
            leaving: false,
            ahead: 3,
        }
    }

    #[test]
    fn an_offer_comes_through() {
        let parsed = parse(&offer()).unwrap();
        assert_eq!((parsed.name.as_str(), parsed.slots, parsed.memory_bytes), ("w1", 2, Some(5)));
        assert_eq!(parsed.ahead, 3);
        assert_eq!(parsed.properties["OSFamily"], ["linux", "wasi"]);
        assert_eq!(to_wire(&parsed), wardian::WorkerOffer { incarnation: String::new(), ..offer() });
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let property = reapi::platform::Property { name: String::new(), value: "x".into() };
        for wrong in [
            wardian::WorkerOffer { name: String::new(), ..offer() },
            wardian::WorkerOffer { name: "a\nb".into(), ..offer() },
            wardian::WorkerOffer { name: "x".repeat(129), ..offer() },
            wardian::WorkerOffer { incarnation: String::new(), ..offer() },
            wardian::WorkerOffer { slots: 0, ..offer() },
            wardian::WorkerOffer { slots: 1025, ..offer() },
            wardian::WorkerOffer { ahead: 4097, ..offer() },
            wardian::WorkerOffer { properties: vec![property.clone()], ..offer() },
            wardian::WorkerOffer { properties: vec![property; 257], ..offer() },
        ] {
            let refused = parse(&wrong).unwrap_err();
            assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{wrong:?}");
        }
    }
}
