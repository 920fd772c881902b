//! The decision engine: Cedar policies, validated, indexed and explained.
