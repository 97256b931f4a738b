//! Which resources are kept, and the statements of their tables.

use std::fmt::{Debug, Display};
use std::str::FromStr;

use galerne_model::identity::{ApiKey, Principal, Project, RoleBinding, Tenant};
use galerne_model::inference::{Endpoint, Model, Pull, Replica};
use galerne_model::money::{Budget, PriceBook};
use galerne_model::node::Node;
use galerne_model::resource::Resource;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The texts of one table.
#[derive(Debug)]
pub struct Statements {
    pub(crate) insert: &'static str,
    pub(crate) get: &'static str,
    pub(crate) get_deleted: &'static str,
    pub(crate) update_spec: &'static str,
    pub(crate) update_status: &'static str,
    pub(crate) delete: &'static str,
    pub(crate) list: &'static str,
    pub(crate) all: &'static str,
    pub(crate) load: &'static str,
}

macro_rules! columns {
    () => {
        "id, tenant_id, project_id, name, generation, spec, status, created_at, updated_at"
    };
}

macro_rules! statements {
    ($table:literal) => {
        Statements {
            insert: concat!(
                "INSERT INTO ",
                $table,
                " (",
                columns!(),
                ") VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ",
                "ON CONFLICT DO NOTHING RETURNING ",
                columns!()
            ),
            get: concat!("SELECT ", columns!(), " FROM ", $table, " WHERE id = $1 AND deleted_at IS NULL"),
            get_deleted: concat!("SELECT ", columns!(), " FROM ", $table, " WHERE id = $1 AND deleted_at IS NOT NULL"),
            // `updated_at` always moves forward, so that it tells two versions apart even when the clock stands.
            update_spec: concat!(
                "UPDATE ",
                $table,
                " SET spec = $3, generation = generation + 1, ",
                "updated_at = CASE WHEN $4 > updated_at THEN $4 ELSE updated_at + 1 END ",
                "WHERE id = $1 AND generation = $2 AND deleted_at IS NULL RETURNING ",
                columns!()
            ),
            // A negative $2 stands for any version.
            update_status: concat!(
                "UPDATE ",
                $table,
                " SET status = $3, ",
                "updated_at = CASE WHEN $4 > updated_at THEN $4 ELSE updated_at + 1 END ",
                "WHERE id = $1 AND ($2 < 0 OR updated_at = $2) AND deleted_at IS NULL RETURNING ",
                columns!()
            ),
            delete: concat!(
                "UPDATE ",
                $table,
                " SET deleted_at = $3, updated_at = $3 ",
                "WHERE id = $1 AND ($2 < 0 OR generation = $2) AND deleted_at IS NULL RETURNING ",
                columns!()
            ),
            list: concat!(
                "SELECT ",
                columns!(),
                " FROM ",
                $table,
                " WHERE deleted_at IS NULL AND id > $1 ",
                "AND (CAST($2 AS TEXT) IS NULL OR tenant_id = $2) ",
                "AND (CAST($3 AS TEXT) IS NULL OR project_id = $3) ",
                "AND (CAST($4 AS TEXT) IS NULL OR name = $4) ORDER BY id LIMIT $5"
            ),
            all: concat!("SELECT ", columns!(), ", deleted_at FROM ", $table, " ORDER BY id"),
            load: concat!(
                "INSERT INTO ",
                $table,
                " (",
                columns!(),
                ", deleted_at) ",
                "VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)"
            ),
        }
    };
}

mod sealed {
    use galerne_model::resource::Resource;

    pub trait Sealed {}

    /// Names the three parts of a `Resource`, which an alias hides.
    pub trait Parts {
        type Id;
        type Spec;
        type Status;
    }

    impl<I, S, T> Parts for Resource<I, S, T> {
        type Id = I;
        type Spec = S;
        type Status = T;
    }
}

/// A resource that is kept in a table of its own.
pub trait Kind: sealed::Sealed + Sized + Send + Sync + 'static {
    /// Its id.
    type Id: Copy + Display + Debug + FromStr<Err = galerne_model::ids::BadId> + Send + Sync + 'static;
    /// What was asked.
    type Spec: Serialize + DeserializeOwned + Send + Sync + 'static;
    /// What is seen.
    type Status: Serialize + DeserializeOwned + Send + Sync + 'static;
    /// Name of the kind, as people read it.
    const NAME: &'static str;
    #[doc(hidden)]
    const STATEMENTS: &'static Statements;
    #[doc(hidden)]
    fn resource(&self) -> &Resource<Self::Id, Self::Spec, Self::Status>;
    #[doc(hidden)]
    fn from_resource(resource: Resource<Self::Id, Self::Spec, Self::Status>) -> Self;
}

macro_rules! kinds {
    ($($alias:ident = $table:literal, $name:literal;)*) => {
        $(
            impl sealed::Sealed for $alias {}

            impl Kind for $alias {
                type Id = <$alias as sealed::Parts>::Id;
                type Spec = <$alias as sealed::Parts>::Spec;
                type Status = <$alias as sealed::Parts>::Status;
                const NAME: &'static str = $name;
                const STATEMENTS: &'static Statements = &statements!($table);
                fn resource(&self) -> &Self {
                    self
                }
                fn from_resource(resource: Self) -> Self {
                    resource
                }
            }
        )*

        /// Every resource table with its texts, in an order in which they can be loaded.
        pub(crate) const RESOURCE_TABLES: &[(&str, &Statements)] = &[$(($table, <$alias as Kind>::STATEMENTS),)*];
    };
}

kinds! {
    Tenant = "tenant", "tenant";
    Project = "project", "project";
    Principal = "principal", "principal";
    RoleBinding = "role_binding", "role binding";
    ApiKey = "api_key", "key";
    Model = "model", "model";
    Pull = "pull", "pull";
    Endpoint = "endpoint", "endpoint";
    Replica = "replica", "replica";
    Node = "node", "node";
    Budget = "budget", "budget";
    PriceBook = "price_book", "price book";
}
