package mdbweb

import (
	"context"
	"math"
	"slices"
	"strings"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/messagedb-go/messagedb/mdb"
)

const (
	pageMessages = 50
	// maxLooked is how many messages a page with a filter by type looks at.
	maxLooked = 10_000
	// listedBytes is the size of the largest data that a list previews, and shownBytes that of the largest that the page of
	// a message shows.
	listedBytes = 64 << 10
	shownBytes  = 1 << 20
)

// messageColumns are those of a message m, without data and metadata of more than $1 bytes. The size that they
// have in the table is looked at first, which costs nothing.
const messageColumns = `m.id, m.stream_name, m.type, m.position, m.global_position, m.time,
	CASE WHEN pg_catalog.pg_column_size(m.data) <= $1::integer AND pg_catalog.octet_length(m.data::text) <= $1::integer THEN m.data::text END,
	CASE WHEN m.data IS NULL THEN -1 WHEN pg_catalog.pg_column_size(m.data) <= $1::integer THEN pg_catalog.octet_length(m.data::text) ELSE pg_catalog.pg_column_size(m.data) END,
	CASE WHEN pg_catalog.pg_column_size(m.metadata) <= $1::integer AND pg_catalog.octet_length(m.metadata::text) <= $1::integer THEN m.metadata::text END,
	CASE WHEN m.metadata IS NULL THEN -1 WHEN pg_catalog.pg_column_size(m.metadata) <= $1::integer THEN pg_catalog.octet_length(m.metadata::text) ELSE pg_catalog.pg_column_size(m.metadata) END`

// A shown is a message as pages show it.
type shown struct {
	mdb.Message

	// DataSize and MetadataSize are -1 for NULL. Data or Metadata that is too large to be shown is nil.
	DataSize, MetadataSize int64
	Redacted               bool // Redact may have changed it
}

// TooLarge reports whether the data is not shown.
func (s *shown) TooLarge() bool { return s.DataSize >= 0 && s.Data == nil && !s.Redacted }

// MetadataTooLarge reports whether the metadata is not shown.
func (s *shown) MetadataTooLarge() bool {
	return s.MetadataSize >= 0 && s.Metadata == nil && !s.Redacted
}

// previewLength is how many bytes of data a list shows.
const previewLength = 160

// Preview returns the beginning of the data.
func (s *shown) Preview() string {
	text := string(s.Data)
	if len(text) <= previewLength {
		return text
	}
	return strings.ToValidUTF8(text[:previewLength], "") + "…"
}

func toShown(row pgx.CollectableRow) (s shown, err error) {
	var (
		id             pgtype.UUID
		stream         string
		data, metadata *string
	)
	err = row.Scan(&id, &stream, &s.Type, &s.Position, &s.GlobalPosition, &s.Time, &data, &s.DataSize, &metadata, &s.MetadataSize)
	s.ID, s.Stream = uuid.UUID(id.Bytes), mdb.StreamName(stream)
	if data != nil {
		s.Data = []byte(*data)
	}
	if metadata != nil {
		s.Metadata = []byte(*metadata)
	}
	return s, err
}

// redacted changes a message as the caller wants, except for what identifies it. What is too large is not passed on, and so
// not shown either.
func (h *Handler) redacted(s shown) shown {
	if h.config.redact != nil {
		tooLarge := s.TooLarge() || s.MetadataTooLarge()
		changed := h.config.redact(s.Clone())
		s.Data, s.Metadata = changed.Data, changed.Metadata
		s.Redacted = !tooLarge
	}
	return s
}

// A selection says which messages a page shows: those of a stream, of a category, or of all, one type or all types,
// before or after a position.
type selection struct {
	Stream, Category, Type string
	Ascending              bool // in the order of positions, instead of the latest first
	Before, After          *int64
}

// Selects reports whether there is a name.
func (s *selection) Selects() bool { return s.Stream != "" || s.Category != "" }

// forwards reports whether the rows are read in the order of positions.
func (s *selection) forwards() bool { return s.After != nil || s.Before == nil && s.Ascending }

// bound returns the position beside which the page begins.
func (s *selection) bound() int64 {
	switch {
	case s.After != nil:
		return *s.After
	case s.Before != nil:
		return *s.Before
	case s.Ascending:
		return -1
	}
	return math.MaxInt64
}

// sql returns the statement that looks at messages, for what is in s. $1 is the position, $2 how many messages it looks at, $3 the
// number of those that it selects, $4 their type or an empty text, $5 the name. It reads no data.
func (s *selection) sql() string {
	order, compare, last := "DESC", "<", "min"
	if s.forwards() {
		order, compare, last = "ASC", ">", "max"
	}
	place, where, by := "global_position", "$5::text IS NOT NULL", ""
	switch {
	case s.Stream != "":
		place, where = "position", "stream_name = $5::text"
	case s.Category != "":
		// A range with equal ends, see sqlCount.
		const category = "message_store.category(stream_name)"
		where, by = category+" >= $5::varchar AND "+category+" <= $5::varchar", category+" "+order+", "
	}
	return `WITH looked AS MATERIALIZED (
	SELECT global_position, ` + place + ` AS place, type FROM message_store.messages
	WHERE ` + where + ` AND ` + place + ` ` + compare + ` $1::bigint ORDER BY ` + by + place + ` ` + order + ` LIMIT $2::integer
)
SELECT pg_catalog.count(*), coalesce(pg_catalog.` + last + `(place), 0), ARRAY(
	SELECT l.global_position FROM looked AS l WHERE $4::text = '' OR l.type = $4::text ORDER BY l.place ` + order + ` LIMIT $3::integer
) FROM looked`
}

// sqlListed returns the messages at global positions, in their order.
const sqlListed = `SELECT ` + messageColumns + ` FROM message_store.messages AS m
WHERE m.global_position = ANY ($2::bigint[]) ORDER BY pg_catalog.array_position($2::bigint[], m.global_position)`

// sqlMessage is completed by what identifies the message.
const sqlMessage = `SELECT ` + messageColumns + ` FROM message_store.messages AS m WHERE `

func (h *Handler) messageByID(ctx context.Context, tx pgx.Tx, id uuid.UUID) (shown, error) {
	return h.one(ctx, tx, sqlMessage+`m.id = $2::text::uuid`, shownBytes, id.String())
}

func (h *Handler) messageAt(ctx context.Context, tx pgx.Tx, stream string, position int64) (shown, error) {
	return h.one(ctx, tx, sqlMessage+`m.stream_name = $2::text AND m.position = $3::bigint`, shownBytes, stream, position)
}

func (h *Handler) messageAtGlobal(ctx context.Context, tx pgx.Tx, position int64) (shown, error) {
	return h.one(ctx, tx, sqlMessage+`m.global_position = $2::bigint`, shownBytes, position)
}

func (h *Handler) one(ctx context.Context, tx pgx.Tx, sql string, args ...any) (shown, error) {
	rows, _ := tx.Query(ctx, sql, args...)
	found, err := pgx.CollectRows(rows, toShown)
	if err != nil {
		return shown{}, err
	}
	if len(found) == 0 {
		return shown{}, errNotFound
	}
	return found[0], nil
}

// A found is a page of messages, in the order in which they are shown.
type found struct {
	Messages []shown
	// Newer and Older are the positions after and before which there may be more.
	Newer, Older *int64
	Looked       int64 // of a filter
	Ended        bool  // the filter has looked at as many as it may
}

// place is the position by which pages are.
func (s *selection) place(m *shown) int64 {
	if s.Stream != "" {
		return m.Position
	}
	return m.GlobalPosition
}

// list reads a page.
func (h *Handler) list(ctx context.Context, tx pgx.Tx, s *selection) (f found, err error) {
	look := pageMessages + 1
	if s.Type != "" {
		look = maxLooked
	}
	var (
		last      int64
		positions []int64
	)
	if err := tx.QueryRow(ctx, s.sql(), s.bound(), look, pageMessages+1, s.Type, s.Stream+s.Category).Scan(&f.Looked, &last, &positions); err != nil {
		return f, err
	}
	more := len(positions) > pageMessages
	if more {
		positions = positions[:pageMessages]
	}
	rows, _ := tx.Query(ctx, sqlListed, listedBytes, positions)
	if f.Messages, err = pgx.CollectRows(rows, toShown); err != nil {
		return f, err
	}
	for i := range f.Messages {
		f.Messages[i] = h.redacted(f.Messages[i])
	}
	s.links(&f, more, last)
	return f, nil
}

// links sets the positions of the pages beside this one, and turns the messages into the order in which they are shown.
func (s *selection) links(f *found, more bool, last int64) {
	var onward, back *int64
	f.Ended = s.Type != "" && !more && f.Looked >= maxLooked
	if n := len(f.Messages); n > 0 {
		first, end := s.place(&f.Messages[0]), s.place(&f.Messages[n-1])
		back = &first
		if more {
			onward = &end
		}
	}
	if f.Ended {
		onward = &last
	}
	if s.After == nil && s.Before == nil {
		back = nil // it begins at an end
	}
	if s.forwards() {
		f.Newer, f.Older = onward, back
	} else {
		f.Newer, f.Older = back, onward
	}
	if s.forwards() != s.Ascending {
		slices.Reverse(f.Messages)
	}
}
