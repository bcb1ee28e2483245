//! What a run carries for others.

use std::any::Any;
use std::fmt;

/// Something that must live as long as a run, such as a pin on its inputs. Nobody looks inside.
pub struct Held {
    _value: Box<dyn Any + Send + Sync>,
}

impl Held {
    /// Holds a value.
    pub fn new(value: impl Send + Sync + 'static) -> Self {
        Self { _value: Box::new(value) }
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Held")
    }
}
