package consumer

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/messagedb-go/messagedb/mdb"
)

// Defaults of [FlushEvery].
const (
	DefaultFlushInterval = 5 * time.Second
	DefaultFlushMessages = 1000
)

// InPositionStream lets a consumer keep its position in a stream of Message DB, as Eventide's consumers do, instead of in the schema
// of consumers. Use it if nothing can be installed besides Message DB, or to continue where a consumer of Eventide was. The role needs
// the privileges of the role message_store. The handler must be one of [Each] or [Batch].
//
// id is what Eventide calls the identifier of the consumer. The stream of a consumer of the category account with the id mailer
// is account:position-mailer, and that of the category account:command is account:command+position-mailer. With an empty id, it is the
// stream account:position, as in Eventide without an identifier. Each time that the position is stored, a
// message of the type Recorded is added to the stream, whose data is like {"position": 123}: the global position up to which all
// messages of the category are handled. Only the last one is read, so a job may delete those before it. If the stream is empty, the
// consumer begins as without this option, see [FromEnd] and [FromPosition].
//
// One process at a time runs such a consumer. A process that starts takes over immediately: it writes the position again. The
// process that ran before can then store nothing more. It notices that within two seconds and Run returns [ErrReplaced], so both
// may handle the same messages meanwhile. If a process cannot ask for eight seconds whether it was replaced, the contexts of its handlers end with
// [ErrLeaseLost], and it calls no handler until it can. Run no two processes that are both started again when they end: they would replace each
// other for as long as they run. Eventide's consumers are not replaced. Stop them first.
//
// The position is stored as [FlushEvery] says, and when the process stops. The messages since then are handled again after a
// crash, after a failover, and after the connection that stores it was lost.
//
// Messages with the same cardinal ID are handled in order, with any number of workers. The position is before the first
// message that is not handled. The consumer has one partition, unless [WithPartitions] says otherwise: with several, a message that is retried does
// not hold up those of other partitions, and with Batch as many calls can run in parallel, but more is repeated after a crash. The
// number may be another one each time.
//
// Nothing is parked. A message that would be parked is retried where it is, with waits of up to a minute, until the
// handler succeeds or says [Skip] or [Stop]; so do [OnFailure] and [StopOnError]. Operators do not see such a consumer, see
// [Operator.ImportPosition], and [Consumer.Replay] does not apply to it. To let it continue elsewhere, write a position to the stream: the process that runs it
// ends with ErrReplaced, and the next one continues there.
//
// Does not work through PL/Proxy.
func InPositionStream(id string) Option {
	return Option{
		name: inPositionStream, needs: "Each or Batch", fits: func(h Handler) bool { return !h.transactional },
		apply: func(c *config) {
			if id != "" {
				c.text("id of the position stream", id, "an identifier", 0)
			}
			c.positionID = &id
		},
	}
}

// FlushEvery sets how often a consumer with [InPositionStream] stores its position: when that long has passed since it was last stored, or
// when as many messages are handled since then, but at most about once a second. The defaults are [DefaultFlushInterval] and
// [DefaultFlushMessages]. Each time adds a message to the stream.
func FlushEvery(interval time.Duration, messages int) Option {
	return Option{name: flushEvery, apply: func(c *config) {
		if interval <= 0 {
			c.fault("interval of positions", interval.String(), "more than 0")
		}
		positive(c, "messages of a position", messages)
		c.flushing = flushing{interval, messages}
	}}
}

const (
	inPositionStream = "InPositionStream"
	flushEvery       = "FlushEvery"
)

// A flushing says how often a position is stored.
type flushing struct {
	interval time.Duration
	messages int
}

// notInStream are the options that do not fit a position stream, and why.
var notInStream = map[string]string{
	"WithLease":      "without it: the next process takes over immediately",
	"WithInstance":   "without it: the next process takes over immediately",
	"WithCategories": "one consumer for each category, see Run",
	"MaxParked":      "without it: nothing is parked",
	"WithErrorText":  "without it: nothing is parked",
	"OnPark":         "without it: nothing is parked",
	"ParkAlone":      "without it: nothing is parked",
	stateIn:          "without it: the stream is in the store",
}

// checkPositionStream finds what does not fit a position stream.
func (c *config) checkPositionStream(category mdb.Category) {
	if c.positionID == nil {
		if slices.Contains(c.given, flushEvery) {
			c.fault("option", flushEvery, "it with "+inPositionStream)
		}
		return
	}
	for _, option := range c.given {
		if allowed, ok := notInStream[option]; ok {
			c.fault("option", option+" with "+inPositionStream, allowed)
		}
	}
	if positions := positionCategory(string(category)); positions == string(category) {
		c.fault("category", strconv.Quote(string(category))+" with "+inPositionStream, "one without the type position: it would receive its own positions")
	}
}

// positionCategory returns the category of the position streams of a category's consumers, by the rule of Eventide's
// PositionStore::StreamName: it has the type position in addition to its own types. What follows a second colon
// is left out, and so are empty types at the end, as there.
func positionCategory(category string) string {
	entity, types, _ := strings.Cut(category, ":")
	types, _, _ = strings.Cut(types, ":")
	var list []string
	if types = strings.TrimRight(types, "+"); types != "" {
		list = strings.Split(types, "+")
	}
	if !slices.Contains(list, "position") {
		list = append(list, "position")
	}
	return entity + ":" + strings.Join(list, "+")
}

// positionStreamOf returns the name of a consumer's position stream.
func positionStreamOf(category, id string) string {
	name := positionCategory(category)
	if id != "" {
		name += "-" + id
	}
	return name
}

// fatal returns the error with which Run ends if the first join fails with err, or nil if it is to be retried.
func (s *positionStream) fatal(explain func(what string, err error) error, err error) error {
	var wrong *notPositionError
	switch {
	case errors.As(err, new(*mdb.AheadError)):
		return err
	case errors.As(err, &wrong):
		return wrong.setup("pass another id to InPositionStream")
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, errOtherHistory), mdb.IsTransient(err):
		return nil
	}
	return explain("store a position in the stream "+s.name, err)
}
