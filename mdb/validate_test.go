package mdb_test

import (
	"context"
	"errors"
	"math"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/mdb"
)

// unusedStore returns a store whose pool fails the test when a connection is acquired, and a
// Tx without a transaction, which would return a fault of the transaction.
func unusedStore(t *testing.T, opts ...mdb.StoreOption) (*mdb.Store, *mdb.Tx) {
	t.Helper()
	pool := newPool(t, "postgres://nobody@nowhere.invalid/nothing", func(cfg *pgxpool.Config) {
		cfg.ConnConfig.LookupFunc = func(context.Context, string) ([]string, error) {
			t.Error("a connection was acquired")
			return nil, errors.New("none")
		}
		cfg.ConnConfig.DialFunc = func(context.Context, string, string) (net.Conn, error) {
			t.Error("a connection was opened")
			return nil, errors.New("none")
		}
	})
	s := newStore(t, pool, append(opts, attempts(1))...)
	return s, s.WithTx(nil)
}

func checkFaults(t *testing.T, err error, want ...mdb.Fault) {
	t.Helper()
	if got := wantError[*mdb.ArgumentError](t, err).Faults; !slices.Equal(got, want) {
		t.Errorf("got faults\n%+v\nwant\n%+v", got, want)
	}
}

const (
	wantCategory = "a category, which contains no dash"
	wantStream   = "a stream name, which is a category, a dash and an id"
	wantWithID   = "the name of a stream, with an id (read a category with the methods for categories)"
	wantUTF8     = "valid UTF-8"
	wantNoZero   = "text without the character U+0000"
)

// TestCategoryArguments checks which categories are rejected.
func TestCategoryArguments(t *testing.T) {
	t.Parallel()
	s, tx := unusedStore(t)
	for category, fault := range map[mdb.Category]mdb.Fault{
		"":            {"category", `""`, wantCategory},
		"-":           {"category", `"-"`, wantCategory},
		"account-1":   {"category", `"account-1"`, wantCategory},
		"acc\x00ount": {"category", `"acc\x00ount"`, wantNoZero},
		"acc\xffount": {"category", `"acc\xffount"`, wantUTF8},
	} {
		for _, c := range []calls{s, tx} {
			_, err := c.GetCategoryMessages(t.Context(), category)
			checkFaults(t, err, fault)
			for _, err := range c.CategoryMessages(t.Context(), category) {
				checkFaults(t, err, fault)
			}
			fault := fault
			fault.Argument = "correlation"
			_, err = c.GetCategoryMessages(t.Context(), "account", mdb.WithCorrelation(category))
			checkFaults(t, err, fault)
		}
		checkFaults(t, tx.LockCategories(t.Context(), "account", category), fault)
		checkFaults(t, tx.LockCategories(t.Context(), category, "account", category), fault, fault)
	}
}

// TestStreamArguments checks which stream names are rejected, for reads and for writes.
func TestStreamArguments(t *testing.T) {
	t.Parallel()
	s, tx := unusedStore(t)
	for stream, fault := range map[mdb.StreamName]mdb.Fault{
		"":              {"stream", `""`, wantStream},
		"-":             {"stream", `"-"`, wantStream},
		"-1":            {"stream", `"-1"`, wantStream},
		"account-":      {"stream", `"account-"`, wantStream},
		"account-1\x00": {"stream", `"account-1\x00"`, wantNoZero},
		"account-\xc3":  {"stream", `"account-\xc3"`, wantUTF8},
	} {
		for _, c := range []calls{s, tx} {
			_, err := c.WriteMessage(t.Context(), stream, mdb.NewMessage("Happened", nil))
			checkFaults(t, err, fault)
			_, err = c.WriteMessages(t.Context(), stream, proposals(2))
			checkFaults(t, err, fault)
			_, err = c.GetStreamMessages(t.Context(), stream)
			checkFaults(t, err, fault)
			for _, err := range c.StreamMessages(t.Context(), stream) {
				checkFaults(t, err, fault)
			}
			_, err = c.GetLastStreamMessage(t.Context(), stream)
			checkFaults(t, err, fault)
			_, err = c.StreamVersion(t.Context(), stream)
			checkFaults(t, err, fault)
		}
	}
	// A category's own stream can be written to, but not read as a stream.
	for _, c := range []calls{s, tx} {
		_, err := c.GetStreamMessages(t.Context(), "account")
		checkFaults(t, err, mdb.Fault{"stream", `"account"`, wantWithID})
	}
}

// TestTypeArguments checks which message types are rejected.
func TestTypeArguments(t *testing.T) {
	t.Parallel()
	s, tx := unusedStore(t)
	for typ, fault := range map[string]mdb.Fault{
		"":      {"type", `""`, "a message type"},
		"a\x00": {"type", `"a\x00"`, wantNoZero},
		"\x80":  {"type", `"\x80"`, wantUTF8},
	} {
		for _, c := range []calls{s, tx} {
			_, err := c.WriteMessage(t.Context(), "account-1", mdb.NewMessage(typ, nil))
			checkFaults(t, err, fault)
			_, err = c.GetLastStreamMessage(t.Context(), "account-1", mdb.OfType(typ))
			checkFaults(t, err, fault)
			second := fault
			second.Argument = "message 1's type"
			_, err = c.WriteMessages(t.Context(), "account-1", []mdb.ProposedMessage{mdb.NewMessage("Happened", nil), mdb.NewMessage(typ, nil)})
			checkFaults(t, err, second)
		}
	}
}

// TestReadOptionArguments checks which values of the options of reads are rejected.
func TestReadOptionArguments(t *testing.T) {
	t.Parallel()
	s, tx := unusedStore(t)
	conditional, _ := unusedStore(t, mdb.WithConditions())
	const (
		wantBatch  = "at least 1"
		wantSize   = "1 to 32767"
		wantMember = "at least 0 and less than the size"
	)
	for _, tt := range []struct {
		opt   mdb.ReadOption
		fault mdb.Fault
	}{
		{mdb.WithBatchSize(0), mdb.Fault{"batch size", "0", wantBatch}},
		{mdb.WithBatchSize(-1), mdb.Fault{"batch size", "-1", wantBatch}},
		{mdb.WithBatchBytes(0), mdb.Fault{"batch bytes", "0", wantBatch}},
		{mdb.WithCondition("true"), mdb.Fault{"condition", "one", "none, or a Store created with WithConditions"}},
	} {
		for _, c := range []calls{s, tx} {
			_, err := c.GetStreamMessages(t.Context(), "account-1", tt.opt)
			checkFaults(t, err, tt.fault)
			_, err = c.GetCategoryMessages(t.Context(), "account", tt.opt)
			checkFaults(t, err, tt.fault)
		}
	}
	_, err := conditional.GetStreamMessages(t.Context(), "account-1", mdb.WithCondition(""))
	checkFaults(t, err, mdb.Fault{"condition", `""`, "SQL"})
	for _, tt := range []struct {
		opt   mdb.StreamOption
		fault mdb.Fault
	}{
		{mdb.FromPosition(-1), mdb.Fault{"position", "-1", "at least 0"}},
		{mdb.FromPosition(math.MinInt64), mdb.Fault{"position", "-9223372036854775808", "at least 0"}},
		{mdb.AfterPosition(-2), mdb.Fault{"position", "-2", "at least -1 and less than the largest int64"}},
		{mdb.AfterPosition(math.MaxInt64), mdb.Fault{"position", "9223372036854775807", "at least -1 and less than the largest int64"}},
	} {
		_, err := s.GetStreamMessages(t.Context(), "account-1", tt.opt)
		checkFaults(t, err, tt.fault)
	}
	for _, tt := range []struct {
		opt    mdb.CategoryOption
		faults []mdb.Fault
	}{
		{mdb.FromGlobalPosition(-1), []mdb.Fault{{"global position", "-1", "at least 0"}}},
		{mdb.AfterGlobalPosition(-1), []mdb.Fault{{"global position", "-1", "at least 0 and less than the largest int64"}}},
		{mdb.AfterGlobalPosition(math.MaxInt64), []mdb.Fault{{"global position", "9223372036854775807", "at least 0 and less than the largest int64"}}},
		{mdb.AsConsumerGroup(-1, 1), []mdb.Fault{{"consumer group member", "-1", wantMember}}},
		{mdb.AsConsumerGroup(1, 1), []mdb.Fault{{"consumer group member", "1", wantMember}}},
		{mdb.AsConsumerGroup(3, 2), []mdb.Fault{{"consumer group member", "3", wantMember}}},
		{mdb.AsConsumerGroup(0, 32768), []mdb.Fault{{"consumer group size", "32768", wantSize}}},
		{mdb.AsConsumerGroup(0, 0), []mdb.Fault{{"consumer group size", "0", wantSize}, {"consumer group member", "0", wantMember}}},
		{mdb.AsConsumerGroup(0, -1), []mdb.Fault{{"consumer group size", "-1", wantSize}, {"consumer group member", "0", wantMember}}},
	} {
		for _, c := range []calls{s, tx} {
			_, err := c.GetCategoryMessages(t.Context(), "account", tt.opt)
			checkFaults(t, err, tt.faults...)
		}
	}
}

// TestConditionText checks that a condition is checked like any other text.
func TestConditionText(t *testing.T) {
	t.Parallel()
	s, _ := unusedStore(t, mdb.WithConditions())
	for condition, allowed := range map[mdb.SQL]string{
		"type = '\x00'": wantNoZero,
		"type = '\xff'": wantUTF8,
	} {
		_, err := s.GetStreamMessages(t.Context(), "account-1", mdb.WithCondition(condition))
		faults := wantError[*mdb.ArgumentError](t, err).Faults
		if len(faults) != 1 || faults[0].Argument != "condition" || faults[0].Allowed != allowed {
			t.Errorf("got faults %+v, want one of the condition, for which %s is allowed", faults, allowed)
		}
	}
}

// TestIteratorArguments checks that a sequence yields the error of its arguments as its
// only pair, and that it rejects Unlimited.
func TestIteratorArguments(t *testing.T) {
	t.Parallel()
	s, tx := unusedStore(t)
	unlimited := mdb.Fault{"batch size", "Unlimited", "WithBatchSize, because the sequence reads page after page"}
	for _, c := range []calls{s, tx} {
		n := 0
		for m, err := range c.StreamMessages(t.Context(), "account-1", mdb.Unlimited()) {
			checkFaults(t, err, unlimited)
			if m.Type != "" {
				t.Errorf("got message %+v with an error", m)
			}
			n++
		}
		for _, err := range c.CategoryMessages(t.Context(), "account", mdb.Unlimited()) {
			checkFaults(t, err, unlimited)
			n++
		}
		for range c.CategoryMessages(t.Context(), "", mdb.WithBatchSize(0)) {
			n++
		}
		if n != 3 {
			t.Errorf("got %d pairs, want one of each sequence", n)
		}
	}
}

// TestWriteOptionArguments checks which values of the options of writes are rejected.
func TestWriteOptionArguments(t *testing.T) {
	t.Parallel()
	s, tx := unusedStore(t)
	m := mdb.NewMessage("Happened", nil)
	for _, c := range []calls{s, tx} {
		_, err := c.WriteMessage(t.Context(), "account-1", m, mdb.ExpectVersion(-2))
		checkFaults(t, err, mdb.Fault{"expected version", "-2", "a position, or -1 for no stream"})
	}
	idempotent := mdb.Fault{"option", "Idempotent on a Tx", "InSavepoint with it, or a Store, because a duplicate ID aborts a transaction"}
	_, err := tx.WriteMessage(t.Context(), "account-1", m, mdb.Idempotent())
	checkFaults(t, err, idempotent)
	_, err = tx.WriteMessages(t.Context(), "account-1", proposals(2), mdb.Idempotent())
	checkFaults(t, err, idempotent)
	inSavepoint := mdb.Fault{"option", "InSavepoint on a Store", "a Tx, because each write of a Store is a transaction of its own"}
	_, err = s.WriteMessage(t.Context(), "account-1", m, mdb.InSavepoint())
	checkFaults(t, err, inSavepoint)
	_, err = s.WriteMessages(t.Context(), "account-1", proposals(2), mdb.InSavepoint(), mdb.Idempotent())
	checkFaults(t, err, inSavepoint)
	each := s.WriteEach(t.Context(), []mdb.Write{{Stream: "account-1", Message: m, Options: []mdb.WriteOption{mdb.InSavepoint()}}})
	checkFaults(t, each[0].Err, inSavepoint)
}

// TestDuplicateIDArgument checks that a batch with the same ID twice is rejected.
func TestDuplicateIDArgument(t *testing.T) {
	t.Parallel()
	s, _ := unusedStore(t)
	ms := proposals(4)
	ms[2].ID, ms[3].ID = ms[0].ID, ms[1].ID
	// Messages without an ID each get their own.
	ms = append(ms, mdb.ProposedMessage{Type: "Happened"}, mdb.ProposedMessage{Type: "Happened"})
	_, err := s.WriteMessages(t.Context(), "account-1", ms)
	checkFaults(t, err,
		mdb.Fault{"message 2's ID", ms[0].ID.String() + ", the ID of message 0", "a different ID for each message"},
		mdb.Fault{"message 3's ID", ms[1].ID.String() + ", the ID of message 1", "a different ID for each message"})
}

// TestAllFaults checks that one error reports all faults of a call, in the order of its
// arguments.
func TestAllFaults(t *testing.T) {
	t.Parallel()
	s, _ := unusedStore(t, mdb.WithMaxMessageSize(10))
	id := uuid.New()
	_, err := s.WriteMessages(t.Context(), "", []mdb.ProposedMessage{
		{ID: id, Data: "text"},
		{ID: id, Type: "Happened", Data: []byte(`{"longer than":"ten bytes"}`), Metadata: []byte(`{`)},
	}, mdb.ExpectVersion(-3))
	checkFaults(t, err,
		mdb.Fault{"stream", `""`, wantStream},
		mdb.Fault{"expected version", "-3", "a position, or -1 for no stream"},
		mdb.Fault{"message 0's type", `""`, "a message type"},
		mdb.Fault{"message 0's data", "a string (convert it to json.RawMessage if it is JSON, or marshal it)", "valid JSON that PostgreSQL can store"},
		mdb.Fault{"message 1's metadata", "invalid JSON", "valid JSON that PostgreSQL can store"},
		mdb.Fault{"message 1's size", "28 bytes when it is read", "at most 10, see WithMaxMessageSize"},
		mdb.Fault{"message 1's ID", id.String() + ", the ID of message 0", "a different ID for each message"})
	const text = `mdb: stream: got "", want a stream name, which is a category, a dash and an id; expected version: got -3, want a position, or -1 for no stream; `
	if got := err.Error(); len(got) < len(text) || got[:len(text)] != text {
		t.Errorf("got text %q, want it to begin with %q", got, text)
	}

	_, err = s.GetCategoryMessages(t.Context(), "a-b", mdb.FromGlobalPosition(-1), mdb.WithBatchSize(0),
		mdb.WithCorrelation("c-d"), mdb.AsConsumerGroup(3, 0), mdb.WithCondition(""))
	if n := len(wantError[*mdb.ArgumentError](t, err).Faults); n != 8 {
		t.Errorf("got %d faults in %v, want 8", n, err)
	}
}

// TestStoreArguments checks which pools and options New rejects.
func TestStoreArguments(t *testing.T) {
	t.Parallel()
	const nowhere = "postgres://nobody@nowhere.invalid/nothing"
	pool := newPool(t, nowhere)
	for _, tt := range []struct {
		name   string
		pool   *pgxpool.Pool
		opts   []mdb.StoreOption
		faults []mdb.Fault
	}{
		{"pool", nil, nil, []mdb.Fault{{"pool", "nil", "a *pgxpool.Pool"}}},
		{"statement cache", newPool(t, nowhere+"?statement_cache_capacity=0"), nil, []mdb.Fault{
			{"the pool's statement cache capacity", "0", `at least 1 in the exec mode "cache statement", or another mode`},
		}},
		{"description cache", newPool(t, nowhere+"?default_query_exec_mode=cache_describe&description_cache_capacity=0"), nil, []mdb.Fault{
			{"the pool's description cache capacity", "0", `at least 1 in the exec mode "cache describe", or another mode`},
		}},
		{"size", pool, []mdb.StoreOption{mdb.WithMaxMessageSize(0)}, []mdb.Fault{{"maximum message size", "0", "at least 1 byte"}}},
		{"logger", pool, []mdb.StoreOption{mdb.WithLogger(nil)}, []mdb.Fault{{"logger", "nil", "a *slog.Logger"}}},
		{
			"retry and pool", nil,
			[]mdb.StoreOption{mdb.WithRetry(mdb.RetryPolicy{Attempts: -1, MinDelay: -time.Second, MaxDelay: -time.Nanosecond})},
			[]mdb.Fault{
				{"pool", "nil", "a *pgxpool.Pool"},
				{"retry attempts", "-1", "at least 1, or 0 for the default"},
				{"minimum retry delay", "-1s", "a positive duration, or 0 for the default"},
				{"maximum retry delay", "-1ns", "a positive duration, or 0 for the default"},
			},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s, err := mdb.New(tt.pool, tt.opts...)
			checkFaults(t, err, tt.faults...)
			if s != nil {
				t.Error("got a Store with an error")
			}
		})
	}
}
