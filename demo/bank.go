package main

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/messagedb-go/messagedb/mdb"
)

const (
	accounts = 8
	opening  = 1000 // what each account begins with
	writers  = 4
)

// Moved is the data of the messages Deposited and Withdrawn.
type Moved struct {
	Amount int64 `json:"amount"`
}

// Origin is their metadata.
type Origin struct {
	Transfer mdb.StreamName `json:"correlationStreamName,omitempty"`
	// WrittenAt is when the write began, in Unix microseconds by the demo's clock.
	WrittenAt int64 `json:"writtenAt"`
}

// age is how long ago the write of a message began.
func age(m mdb.Message) (time.Duration, error) {
	var o Origin
	if err := m.DecodeMetadata(&o); err != nil {
		return 0, err
	}
	return time.Since(time.UnixMicro(o.WrittenAt)), nil
}

// audited is the type of messages that change no balance.
const audited = "Audited"

// effect is what a message does to the balance of its account.
func effect(m mdb.Message) (int64, error) {
	var moved Moved
	if err := m.Decode(&moved); err != nil {
		return 0, err
	}
	switch m.Type {
	case "Deposited":
		return moved.Amount, nil
	case "Withdrawn":
		return -moved.Amount, nil
	case audited:
		return 0, nil
	}
	return 0, fmt.Errorf("a message of type %s in %s", m.Type, m.Stream)
}

// A bank moves money between accounts.
type bank struct {
	db        *database
	store     *mdb.Store
	category  mdb.Category // of the accounts
	transfers mdb.Category // that the messages are correlated with

	transferred meter
	conflicts   meter
	doubts      doubts
	messages    atomic.Int64 // acknowledged

	mu    sync.Mutex // guards what follows
	acked []uuid.UUID
}

// Doubts are transfers whose answer was lost. Reading the account shows their outcome.
type doubts struct{ written, notWritten atomic.Int64 }

func (b *bank) account(i int) mdb.StreamName { return b.db.account(i) }

func (b *bank) acknowledge(ids ...uuid.UUID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.acked = append(b.acked, ids...)
	b.messages.Add(int64(len(ids)))
}

// acknowledged returns the IDs of all messages that are known to be written.
func (b *bank) acknowledged() []uuid.UUID {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.acked
}

// openAccounts deposits the opening balances.
func (b *bank) openAccounts(ctx context.Context) error {
	for i := range accounts {
		m := mdb.NewMessage("Deposited", Moved{opening})
		m.Metadata = Origin{WrittenAt: time.Now().UnixMicro()}
		written, err := b.store.WriteMessage(ctx, b.account(i), m, mdb.ExpectNoStream())
		if err != nil {
			return err
		}
		b.acknowledge(written.ID)
	}
	return nil
}
