//! The build engine: request, plan, solve, image, export
