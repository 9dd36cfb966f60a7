package archive

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/messagedb-go/messagedb/mdb"
)

// A batch is what is written in one transaction.
type batch struct {
	messages []message
	ids      map[uuid.UUID]bool
	bytes    int
}

// batchBytes is the size of data and metadata after which a batch is full.
const batchBytes = 1 << 20

// full reports whether there is no room for another message, which must be written before one with the same ID is looked for.
func (b *batch) full(m message) bool {
	return b.ids[m.id] || len(b.messages) >= pageSize || len(b.messages) > 0 && b.bytes+len(m.data)+len(m.metadata) > batchBytes
}

func (b *batch) add(m message) {
	b.messages = append(b.messages, m)
	if b.ids == nil {
		b.ids = make(map[uuid.UUID]bool, pageSize)
	}
	b.ids[m.id] = true
	b.bytes += len(m.data) + len(m.metadata)
}

func (b *batch) categories() []mdb.Category {
	var categories []mdb.Category
	for i := range b.messages {
		categories = append(categories, b.messages[i].stream.Category())
	}
	slices.Sort(categories)
	return slices.Compact(categories)
}

// write writes a batch and empties it.
func (im *importer) write(ctx context.Context, b *batch) error {
	if len(b.messages) == 0 {
		return nil
	}
	err := im.settle(ctx, b)
	if len(b.messages) > 1 && isRejected(err) {
		// One by one, so that the error names the message, and those before it are written.
		for _, m := range b.messages {
			if err = im.settle(ctx, &batch{messages: []message{m}}); err != nil {
				break
			}
		}
	}
	if err != nil {
		return err
	}
	clear(b.messages) // so that they can be freed
	clear(b.ids)
	*b = batch{messages: b.messages[:0], ids: b.ids}
	return nil
}

// settle writes a batch until its outcome is known: what an earlier attempt has written is found by the next one.
func (im *importer) settle(ctx context.Context, b *batch) error {
	for attempt := 1; ; attempt++ {
		var done Imported
		err := im.store.Atomically(ctx, b.categories(), func(tx *mdb.Tx) (err error) {
			done, err = im.inTx(ctx, tx.Tx(), b.messages)
			return err
		})
		if unknown := (*mdb.UnknownOutcomeError)(nil); errors.As(err, &unknown) && ctx.Err() == nil && attempt < maxAttempts {
			continue
		}
		conflict := (*ConflictError)(nil)
		if err != nil && !errors.As(err, &conflict) {
			return b.explain(err)
		}
		if err == nil {
			im.done.Written += done.Written
			im.done.Found += done.Found
			if im.opts.Progress != nil {
				im.opts.Progress(im.done)
			}
			return nil
		}
		// What comes before the conflict has been rolled back with it.
		before := slices.IndexFunc(b.messages, func(m message) bool { return m.number == conflict.Message })
		if before > 0 {
			if err := im.settle(ctx, &batch{messages: b.messages[:before]}); err != nil {
				return err
			}
		}
		return err
	}
}

// maxAttempts limits commits whose outcome is unknown, one after the other.
const maxAttempts = 8

// inTx writes messages whose categories are locked.
func (im *importer) inTx(ctx context.Context, tx pgx.Tx, all []message) (done Imported, err error) {
	found, err := find(ctx, tx, all)
	if err != nil {
		return done, err
	}
	left := make([]message, 0, len(all)-len(found))
	for i := range all {
		switch differs, ok := found[all[i].id]; {
		case !ok:
			left = append(left, all[i])
		case differs != "":
			return done, all[i].conflict(0, differs)
		}
	}
	done.Found = int64(len(all) - len(left))
	if len(left) == 0 {
		return done, nil
	}
	if err := im.checkPositions(ctx, tx, left); err != nil {
		return done, err
	}
	done.Written = int64(len(left))
	if im.opts.Times || im.opts.Gaps {
		return done, insert(ctx, tx, left)
	}
	return done, call(ctx, tx, left)
}

func (m *message) conflict(version int64, differs string) error {
	return &ConflictError{Message: m.number, ID: m.id, Stream: m.stream, Position: m.position, Version: version, Differs: differs}
}

// checkPositions checks that each message follows the one before it in its stream.
func (im *importer) checkPositions(ctx context.Context, tx pgx.Tx, left []message) error {
	versions, err := versionsOf(ctx, tx, left)
	if err != nil {
		return err
	}
	for i := range left {
		m := &left[i]
		version := versions[m.stream]
		if m.position <= version || m.position > version+1 && !im.opts.Gaps {
			return m.conflict(version, "")
		}
		versions[m.stream] = m.position
	}
	return nil
}

// isRejected reports whether the server rejects the messages, as it does with JSON that jsonb cannot contain, or names that are too long.
func isRejected(err error) bool {
	var server *pgconn.PgError
	return errors.As(err, &server) && slices.ContainsFunc([]string{"22", "23", "54", "P0"}, func(class string) bool {
		return strings.HasPrefix(server.Code, class)
	})
}

// explain adds the number of the message. The details of the server's error may quote it, and are left out.
func (b *batch) explain(err error) error {
	first, last := &b.messages[0], &b.messages[len(b.messages)-1]
	what := fmt.Sprintf("messages %d to %d", first.number, last.number)
	if len(b.messages) == 1 {
		what = fmt.Sprintf("message %d, at %s/%d", first.number, first.stream, first.position)
	}
	var server *pgconn.PgError
	if isRejected(err) && errors.As(err, &server) {
		err = &pgconn.PgError{Severity: server.Severity, Code: server.Code, Message: server.Message}
	}
	return fmt.Errorf("archive: import %s: %w", what, err)
}

func ids(messages []message) []string {
	texts := make([]string, len(messages))
	for i := range messages {
		texts[i] = messages[i].id.String()
	}
	return texts
}

// find returns those of the messages whose IDs are in the store, with what is different of them.
func find(ctx context.Context, tx pgx.Tx, all []message) (map[uuid.UUID]string, error) {
	index := make(map[uuid.UUID]*message, len(all))
	for i := range all {
		index[all[i].id] = &all[i]
	}
	found := make(map[uuid.UUID]string)
	var candidates []message
	var id, stream, typ string
	var position int64
	rows, err := tx.Query(ctx, `SELECT id::text, stream_name, type, position FROM message_store.messages
WHERE id = ANY ((SELECT $1::text[])::uuid[])`, ids(all))
	if err != nil {
		return nil, err
	}
	_, err = pgx.ForEachRow(rows, []any{&id, &stream, &typ, &position}, func() error {
		parsed, err := uuid.Parse(id)
		if err != nil {
			return err
		}
		m := index[parsed]
		switch {
		case stream != string(m.stream):
			found[m.id] = "stream, " + stream
		case position != m.position:
			found[m.id] = fmt.Sprintf("position, %d", position)
		case typ != m.typ:
			found[m.id] = "type, " + typ
		default:
			found[m.id] = ""
			candidates = append(candidates, *m)
		}
		return nil
	})
	if err != nil || len(candidates) == 0 {
		return found, err
	}
	return found, compare(ctx, tx, candidates, found)
}

// compare looks for those of the messages whose data or metadata is different in the store.
func compare(ctx context.Context, tx pgx.Tx, candidates []message, found map[uuid.UUID]string) error {
	data, metadata := payloads(candidates)
	rows, err := tx.Query(ctx, `SELECT m.id::text, CASE WHEN s.data IS DISTINCT FROM nullif(m.data, '')::jsonb THEN 'data' ELSE 'metadata' END
FROM unnest($1::text[], $2::text[], $3::text[]) AS m(id, data, metadata)
JOIN message_store.messages AS s ON s.id = m.id::uuid
WHERE s.data IS DISTINCT FROM nullif(m.data, '')::jsonb OR s.metadata IS DISTINCT FROM nullif(m.metadata, '')::jsonb`, ids(candidates), data, metadata)
	if err != nil {
		return err
	}
	var id, differs string
	_, err = pgx.ForEachRow(rows, []any{&id, &differs}, func() error {
		parsed, err := uuid.Parse(id)
		found[parsed] = differs
		return err
	})
	return err
}

func payloads(messages []message) (data, metadata []string) {
	data, metadata = make([]string, len(messages)), make([]string, len(messages))
	for i := range messages {
		data[i], metadata[i] = messages[i].data, messages[i].metadata
	}
	return data, metadata
}
