//! The ledger itself: opening, appending, checkpoints, proofs.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use testudo_model::{
    Clock, Entropy, SpiffeId, TenantName, Timestamp, TrustDomain,
    event::{Block, Event, Receipt},
    limits::{MAX_BLOCK_EVENTS, MAX_EVENT_BYTES},
};
use testudo_store::{Expected, Logged, Record, Store, StoreError, Tenant, Versioned};
use testudo_trust::{
    Checkpoint, NoteSigner, NoteVerifier, TrustBundle, base64url,
    merkle::{self, Frontier},
};

use crate::{
    IntakeError, Leaf, LedgerError, alike,
    commit::{NewLeaf, Queue, Work},
    intake::VerifiedBlock,
    proof,
    tile::{Nodes, TreeHead},
};

/// What [`Ledger::open`] needs.
pub struct LedgerOptions {
    /// The sealed store.
    pub store: Store,
    /// Whose ledger.
    pub tenant: TenantName,
    /// The fleet's trust domain; the log's origin is `<trust domain>/ledger`.
    pub trust_domain: TrustDomain,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
}

/// The ledger. Share it behind an `Arc`; all methods take `&self` and may be called from many threads.
pub struct Ledger {
    pub(crate) tenant: Tenant,
    pub(crate) tenant_name: TenantName,
    pub(crate) origin: String,
    pub(crate) reporter: SpiffeId,
    pub(crate) signer: NoteSigner,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
    /// Appends that wait for a leader; see `commit`.
    pub(crate) queue: Queue,
}

/// Where appended events are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Index of the first one.
    pub first_leaf: u64,
    /// Size of the tree that holds them.
    pub tree_size: u64,
}

/// A leaf at rest: the time in milliseconds, 8 bytes, and the leaf as it is.
pub(crate) struct StoredLeaf {
    /// When the ledger took it. Not part of the leaf.
    pub(crate) at: Timestamp,
    /// The bytes that are hashed.
    pub(crate) leaf: String,
}

impl Logged for StoredLeaf {
    const LOG: &'static str = "audit.leaves";

    fn write(&self, out: &mut Vec<u8>) -> Result<(), serde_json::Error> {
        out.extend(self.at.unix_millis().to_be_bytes());
        out.extend_from_slice(self.leaf.as_bytes());
        Ok(())
    }

    fn read(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        let malformed = || serde::de::Error::custom("it is no leaf with its time");
        let (at, leaf) = bytes.split_first_chunk().ok_or_else(malformed)?;
        Ok(Self {
            at: Timestamp::from_unix_millis(i64::from_be_bytes(*at)),
            leaf: str::from_utf8(leaf).map_err(|_| malformed())?.to_owned(),
        })
    }
}

impl Ledger {
    /// Opens the ledger; the first start makes its signing key.
    ///
    /// # Errors
    /// The store fails, or what it holds contradicts itself.
    pub fn open(options: LedgerOptions) -> Result<Self, LedgerError> {
        let tenant = options.store.tenant(&options.tenant);
        let origin = format!("{}/ledger", options.trust_domain);
        let ledger = Self {
            signer: found(&tenant, &origin)?,
            reporter: options.trust_domain.server(),
            tenant,
            tenant_name: options.tenant,
            origin,
            clock: options.clock,
            entropy: options.entropy,
            queue: Queue::default(),
        };
        // Asked first: the log may grow between the two questions.
        let size = ledger.size()?;
        if ledger.tenant.log_len::<StoredLeaf>()? < size {
            return Err(LedgerError::Damaged {
                what: "leaves are missing at the end",
            });
        }
        Ok(ledger)
    }

    /// The log's name: first line of its checkpoints and name of its key.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The public key to verify checkpoints with, in the vkey form of c2sp.org/signed-note. Publish it where
    /// an intruder into this machine cannot change it.
    pub fn verifier_key(&self) -> String {
        self.signer.verifier_key()
    }

    /// Appends the control plane's own events. They are durable and covered by a signed checkpoint when this
    /// returns.
    ///
    /// # Errors
    /// An event is no possible leaf, or the store fails. Nothing is appended then.
    pub fn append(&self, events: &[Event]) -> Result<Appended, LedgerError> {
        if events.len() > MAX_BLOCK_EVENTS {
            return Err(LedgerError::TooManyEvents {
                count: events.len(),
                limit: MAX_BLOCK_EVENTS,
            });
        }
        let leaves = events
            .iter()
            .enumerate()
            .map(|(index, event)| self.encode(index, event))
            .collect::<Result<Vec<_>, _>>()?;
        self.append_work(Work::Events(leaves))
    }

    /// Takes a block from a proxy's spool. `roots` must know the roots of the time of sealing. The same block
    /// may come any number of times: it is appended once, and gets the same place in each receipt.
    ///
    /// A block that comes early is taken and the gap before it recorded; late blocks fill it. A block that
    /// contradicts an earlier one is kept as evidence with an alert, and refused.
    ///
    /// # Errors
    /// The block is malformed, not authentic or contradicts an earlier one, or the store fails. There is no
    /// receipt then; see [`IntakeError::is_permanent`].
    pub fn intake(&self, block: Block, roots: &TrustBundle) -> Result<Receipt, IntakeError> {
        let verified = VerifiedBlock::verify(block, roots, &self.tenant_name, self.clock.now())?;
        let (head, head_hash) = (verified.head.clone(), verified.after.previous.clone());
        let appended = self.submit(Work::Block(Box::new(verified)))?;
        Ok(Receipt {
            instance: head.instance,
            block: head.block,
            head_hash,
            first_leaf: appended.first_leaf,
            tree_size: appended.tree_size,
        })
    }

    /// Number of leaves.
    ///
    /// # Errors
    /// The store fails.
    pub fn size(&self) -> Result<u64, LedgerError> {
        Ok(self.head()?.record.size)
    }

    /// The newest signed checkpoint (c2sp.org/tlog-checkpoint). It covers every leaf.
    ///
    /// # Errors
    /// The store fails.
    pub fn checkpoint(&self) -> Result<String, LedgerError> {
        Ok(self.head()?.record.checkpoint)
    }

    /// Proof that the leaf at `index` is in the tree of the newest checkpoint: a file of the form
    /// `c2sp.org/tlog-proof@v1` with the leaf as its extra data. Of an event that is said by what makes it another, a second
    /// one follows, of the leaf that says the rest. [`crate::verify_proof_file`] reads both.
    ///
    /// # Errors
    /// There is no such leaf, or the store fails.
    pub fn prove(&self, index: u64) -> Result<String, LedgerError> {
        let head = self.head()?.record;
        let (mut proof, leaf) = self.prove_leaf(index, &head)?;
        if let Ok(Leaf::Alike(alike)) = Leaf::parse(leaf.as_bytes())
            && let Some(template) = alike::place(index, alike.back())
        {
            proof.push_str(&self.prove_leaf(template, &head)?.0);
        }
        Ok(proof)
    }

    /// The proof of one leaf, and the leaf.
    fn prove_leaf(&self, index: u64, head: &TreeHead) -> Result<(String, String), LedgerError> {
        let missing = LedgerError::NoSuchLeaf {
            index,
            size: head.size,
        };
        if index >= head.size {
            return Err(missing);
        }
        let leaf = self
            .tenant
            .read_log::<StoredLeaf>(index, 1)?
            .into_iter()
            .next()
            .ok_or(missing)?
            .1
            .leaf;
        let path = Nodes::new(&self.tenant)
            .prove(|node| merkle::inclusion_proof(index, head.size, node))?;
        let proof = proof::print(leaf.as_bytes(), index, &path, &head.checkpoint);
        Ok((proof, leaf))
    }

    /// Proof that the tree of the newest checkpoint extends the tree of `old` leaves (RFC 6962 section 2.1.2),
    /// and that checkpoint.
    ///
    /// # Errors
    /// The tree was never that large, or the store fails.
    pub fn consistency(&self, old: u64) -> Result<(Vec<merkle::Hash>, String), LedgerError> {
        let head = self.head()?.record;
        if old > head.size {
            return Err(LedgerError::NoSuchSize {
                asked: old,
                size: head.size,
            });
        }
        let path = Nodes::new(&self.tenant)
            .prove(|node| merkle::consistency_proof(old, head.size, node))?;
        Ok((path, head.checkpoint))
    }

    /// Appends what is no block.
    pub(crate) fn append_work(&self, work: Work) -> Result<Appended, LedgerError> {
        match self.submit(work) {
            Ok(appended) => Ok(appended),
            Err(IntakeError::Ledger(error)) => Err(error),
            Err(_) => Err(LedgerError::Damaged {
                what: "events were judged as a block",
            }),
        }
    }

    pub(crate) fn head(&self) -> Result<Versioned<TreeHead>, LedgerError> {
        self.tenant
            .get::<TreeHead>(TreeHead::KEY)?
            .ok_or(LedgerError::Damaged {
                what: "the tree head is missing",
            })
    }

    pub(crate) fn verifier(&self) -> Result<NoteVerifier, LedgerError> {
        NoteVerifier::parse(&self.verifier_key()).map_err(|_| LedgerError::Damaged {
            what: "the signing key is malformed",
        })
    }

    pub(crate) fn encode(&self, index: usize, event: &Event) -> Result<NewLeaf, LedgerError> {
        // The fleet's ledger has what its own rooms say of all tenants. What proxies say is looked at in the intake.
        if !self.tenant_name.is_default() && event.tenant != self.tenant_name {
            return Err(LedgerError::EventMalformed {
                index,
                why: "it is of another tenant",
            });
        }
        let leaf = NewLeaf::of(event).ok_or(LedgerError::EventMalformed {
            index,
            why: "it cannot be encoded",
        })?;
        let bytes = leaf.text.len();
        if bytes > MAX_EVENT_BYTES {
            return Err(LedgerError::EventTooLarge {
                index,
                bytes,
                limit: MAX_EVENT_BYTES,
            });
        }
        Ok(leaf)
    }
}

/// The ledger's signing key, PKCS#8. The store seals it.
#[derive(Clone, Serialize, Deserialize)]
struct StoredKey {
    origin: String,
    pkcs8: String,
}

impl Record for StoredKey {
    const COLLECTION: &'static str = "audit.key";

    fn key(&self) -> String {
        self.origin.clone()
    }
}

/// The signing key; the first start makes it together with the empty tree.
fn found(tenant: &Tenant, origin: &str) -> Result<NoteSigner, LedgerError> {
    if let Some(signer) = signing_key(tenant, origin)? {
        return Ok(signer);
    }
    let unusable = |_| LedgerError::Damaged {
        what: "no signing key can be made",
    };
    let signer = NoteSigner::generate(origin).map_err(unusable)?;
    let key = StoredKey {
        origin: origin.to_owned(),
        pkcs8: base64url::encode(signer.to_pkcs8().expose()),
    };
    let empty = Frontier::new();
    let head = TreeHead::new(&empty, Timestamp::default(), sign(&signer, origin, &empty));
    let founding = tenant
        .transaction()
        .put(Expected::Absent, &key)
        .put(Expected::Absent, &head);
    match founding.commit() {
        Ok(_) => Ok(signer),
        // Another control plane was first; its key is the key.
        Err(StoreError::Conflict { .. }) => {
            signing_key(tenant, origin)?.ok_or(LedgerError::Damaged {
                what: "there is a tree but no signing key",
            })
        }
        Err(error) => Err(error.into()),
    }
}

fn signing_key(tenant: &Tenant, origin: &str) -> Result<Option<NoteSigner>, LedgerError> {
    let Some(stored) = tenant.get::<StoredKey>(origin)? else {
        return Ok(None);
    };
    base64url::decode(&stored.record.pkcs8)
        .and_then(|pkcs8| NoteSigner::from_pkcs8(origin, &pkcs8).ok())
        .map(Some)
        .ok_or(LedgerError::Damaged {
            what: "the signing key is malformed",
        })
}

/// The signed checkpoint of a tree.
pub(crate) fn sign(signer: &NoteSigner, origin: &str, tree: &Frontier) -> String {
    let checkpoint = Checkpoint {
        origin: origin.to_owned(),
        size: tree.size(),
        root: tree.root(),
    };
    signer.sign(&checkpoint.to_text())
}
