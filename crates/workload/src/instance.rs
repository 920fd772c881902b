//! Who is alive, where, and under which snapshot.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use testudo_model::{
    InstanceId, ServiceName, SpiffeId, Timestamp,
    event::CleanText,
    snapshot::{Endpoints, SnapshotVersion},
};
use testudo_store::{Cursor, Record};

use crate::{
    WorkloadError, WorkloadRole, Workloads,
    record::{Amendment, amend},
};

/// How long an instance counts as alive after its last report. Proxies report three times as often.
pub const INSTANCE_LEASE: Duration = Duration::from_secs(30);
/// A report that only says "still here" is written at most this often.
const WRITE_INTERVAL: Duration = Duration::from_secs(8);
/// How long a silent instance stays in the list.
const MEMORY: Duration = Duration::from_secs(7 * 24 * 3600);
const PAGE: usize = 500;

/// What a proxy says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceReport {
    /// Which proxy.
    pub instance: InstanceId,
    /// Its verified identity, from its connection.
    pub id: SpiffeId,
    /// Where other sidecars reach it; `None` for a gateway.
    pub inbound: Option<SocketAddr>,
    /// The snapshot it enforces.
    pub acknowledged: Option<SnapshotVersion>,
    /// Why it refused a newer snapshot.
    pub refused: Option<String>,
    /// Its build.
    pub build: String,
}

/// A proxy the fleet has seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// Which proxy.
    pub instance: InstanceId,
    /// Its identity.
    pub id: SpiffeId,
    /// The service it stands before; `None` for gateway and control plane.
    pub service: Option<ServiceName>,
    /// Where other sidecars reach it.
    pub inbound: Option<SocketAddr>,
    /// When it first reported.
    pub first_seen: Timestamp,
    /// When it last reported, to within a few seconds.
    pub last_seen: Timestamp,
    /// Whether it said goodbye or was let go.
    pub departed: bool,
    /// The snapshot it enforces.
    pub acknowledged: Option<SnapshotVersion>,
    /// Why it refused a newer snapshot.
    pub refused: Option<CleanText>,
    /// Its build.
    pub build: CleanText,
}

impl Record for Instance {
    const COLLECTION: &'static str = "workload.instances";

    fn key(&self) -> String {
        self.instance.to_string()
    }

    fn expires(&self) -> Option<Timestamp> {
        Some(self.last_seen + MEMORY)
    }
}

/// The endpoints as last published.
#[derive(Clone, Serialize, Deserialize)]
struct StoredEndpoints(Endpoints);

impl Record for StoredEndpoints {
    const COLLECTION: &'static str = "workload.endpoints";

    fn key(&self) -> String {
        Self::KEY.to_owned()
    }
}

impl StoredEndpoints {
    const KEY: &'static str = "fleet";
}

impl Workloads {
    /// Takes a proxy's report. Returns the new endpoints if they changed by it.
    ///
    /// # Errors
    /// The identity is not registered or revoked, another identity holds the instance id, or the store fails.
    pub fn report(&self, report: &InstanceReport) -> Result<Option<Endpoints>, WorkloadError> {
        let service = match self.registration(&report.id)?.role {
            WorkloadRole::Service(name) => Some(name),
            WorkloadRole::Gateway | WorkloadRole::Server => None,
        };
        let now = self.clock.now();
        let moved = amend(
            &self.tenant,
            report.instance.as_str(),
            |known: Option<Instance>| {
                if known.as_ref().is_some_and(|known| known.id != report.id) {
                    return Err(WorkloadError::InstanceTaken {
                        instance: report.instance.clone(),
                    });
                }
                let next = Instance {
                    instance: report.instance.clone(),
                    id: report.id.clone(),
                    service: service.clone(),
                    inbound: report.inbound,
                    first_seen: known.as_ref().map_or(now, |known| known.first_seen),
                    last_seen: now,
                    departed: false,
                    acknowledged: report.acknowledged,
                    refused: report.refused.as_deref().map(CleanText::new),
                    build: CleanText::new(&report.build),
                };
                let moved = known.as_ref().is_none_or(|known| {
                    !self.is_live(known)
                        || known.inbound != next.inbound
                        || known.service != next.service
                });
                let only_alive = known.is_some_and(|known| {
                    now.since(known.last_seen) < WRITE_INTERVAL
                        && Instance {
                            last_seen: now,
                            ..known
                        } == next
                });
                Ok(if only_alive {
                    Amendment::Keep(moved)
                } else {
                    Amendment::Write(next, moved)
                })
            },
        )?;
        if moved {
            self.publish_endpoints()
        } else {
            Ok(None)
        }
    }

    /// Takes a proxy's goodbye. Returns the new endpoints if they changed by it.
    ///
    /// # Errors
    /// Another identity holds the instance id, or the store fails.
    pub fn depart(
        &self,
        instance: &InstanceId,
        id: &SpiffeId,
    ) -> Result<Option<Endpoints>, WorkloadError> {
        amend(
            &self.tenant,
            instance.as_str(),
            |known: Option<Instance>| match known {
                None => Ok(Amendment::Keep(())),
                Some(known) if known.id != *id => Err(WorkloadError::InstanceTaken {
                    instance: instance.clone(),
                }),
                Some(known) => Ok(Amendment::Write(
                    Instance {
                        departed: true,
                        ..known
                    },
                    (),
                )),
            },
        )?;
        self.publish_endpoints()
    }

    /// Lets the silent, the removed and the revoked go. Returns the new endpoints if they changed by it. Call
    /// it every few seconds, and after [`Workloads::revoke`] and [`Workloads::declare`].
    ///
    /// # Errors
    /// The store fails.
    pub fn sweep(&self) -> Result<Option<Endpoints>, WorkloadError> {
        for silent in self
            .instances()?
            .iter()
            .filter(|known| !known.departed && !self.is_live(known))
        {
            amend(
                &self.tenant,
                silent.instance.as_str(),
                |known: Option<Instance>| {
                    Ok(match known {
                        Some(known) if !self.is_live(&known) => Amendment::Write(
                            Instance {
                                departed: true,
                                ..known
                            },
                            (),
                        ),
                        _ => Amendment::Keep(()),
                    })
                },
            )?;
        }
        self.publish_endpoints()
    }

    /// The endpoints as last published.
    ///
    /// # Errors
    /// The store fails.
    pub fn endpoints(&self) -> Result<Endpoints, WorkloadError> {
        let stored = self.tenant.get::<StoredEndpoints>(StoredEndpoints::KEY)?;
        Ok(stored.map(|stored| stored.record.0).unwrap_or_default())
    }

    /// All proxies of the last week, in the order they were first seen.
    ///
    /// # Errors
    /// The store fails.
    pub fn instances(&self) -> Result<Vec<Instance>, WorkloadError> {
        let mut all = Vec::new();
        let mut after: Option<Cursor> = None;
        loop {
            let page = self.tenant.list::<Instance>(after, PAGE)?;
            all.extend(page.items.into_iter().map(|item| item.record));
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(all),
            }
        }
    }

    /// Whether `instance` counts as alive. After a start of the control plane everybody who was alive when it
    /// stopped gets one lease to come back: its absence must not empty the endpoints of a healthy fleet.
    pub fn is_live(&self, instance: &Instance) -> bool {
        let since = instance.last_seen.max(self.started_at);
        !instance.departed && since + INSTANCE_LEASE > self.clock.now()
    }

    /// Publishes the live inbound addresses if they differ from what was published.
    fn publish_endpoints(&self) -> Result<Option<Endpoints>, WorkloadError> {
        amend(
            &self.tenant,
            StoredEndpoints::KEY,
            |published: Option<StoredEndpoints>| {
                let published = published.map(|published| published.0).unwrap_or_default();
                let services = self.live_services()?;
                if published.services == services {
                    return Ok(Amendment::Keep(None));
                }
                let next = Endpoints {
                    version: published.version + 1,
                    services,
                };
                Ok(Amendment::Write(StoredEndpoints(next.clone()), Some(next)))
            },
        )
    }

    fn live_services(&self) -> Result<BTreeMap<ServiceName, Vec<SocketAddr>>, WorkloadError> {
        let entitled: BTreeSet<SpiffeId> = self
            .registrations()?
            .into_iter()
            .filter(|registration| registration.declared && registration.revoked.is_none())
            .map(|registration| registration.id)
            .collect();
        let mut services: BTreeMap<ServiceName, BTreeSet<SocketAddr>> = BTreeMap::new();
        for instance in self
            .instances()?
            .iter()
            .filter(|instance| self.is_live(instance))
        {
            if let (Some(service), Some(inbound)) = (&instance.service, instance.inbound)
                && entitled.contains(&instance.id)
            {
                services.entry(service.clone()).or_default().insert(inbound);
            }
        }
        Ok(services
            .into_iter()
            .map(|(name, at)| (name, at.into_iter().collect()))
            .collect())
    }
}
