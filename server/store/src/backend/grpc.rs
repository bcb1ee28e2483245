/// Placeholder.
pub struct GrpcStore;
/// Placeholder.
pub struct GrpcStoreLimits;
