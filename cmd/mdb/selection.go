package main

import (
	"errors"
	"flag"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/messagedb-go/messagedb/mdb"
)

// A selection says which messages of a stream, of categories or of all read and tail print.
type selection struct {
	name  mdb.StreamName // of a stream or of one category
	all   bool
	some  []mdb.Category // several
	types []string
	limit int64 // 0: none
	typ   string
	json  bool

	from, after *int64
	last        int // how many messages tail prints first
	backwards   bool
	since       *time.Time
	correlation string
	group       string

	stream   mdb.StreamOptions
	category mdb.CategoryOptions
	every    mdb.AllOptions
	printed  int64
}

func (sel *selection) declare(fs *flag.FlagSet) {
	numberFlag(fs, "from", "start at this `POSITION`, a global position for a category", func(n int64) { sel.from = &n })
	numberFlag(fs, "after", "start after this `POSITION`, a global position for a category", func(n int64) { sel.after = &n })
	fs.Func("limit", "stop after printing `N` messages", func(given string) (err error) {
		if sel.limit, err = strconv.ParseInt(given, 10, 64); err != nil || sel.limit < 1 {
			return errors.New("want a number, at least 1")
		}
		return nil
	})
	fs.StringVar(&sel.typ, "type", "", "print only messages of this `TYPE`")
	fs.Func("types", "print only messages of the types `TYPE,TYPE`", func(given string) error {
		sel.types = strings.Split(given, ",")
		return nil
	})
	fs.BoolVar(&sel.all, "all", false, "all categories, instead of a name")
	fs.StringVar(&sel.correlation, "correlation", "", "for categories: only messages whose correlationStreamName is this `STREAM`, such as order-7, or a stream of this category, such as order")
	fs.StringVar(&sel.group, "group", "", "for a category: only the streams of `MEMBER/SIZE` of a consumer group, such as 0/3")
	fs.BoolVar(&sel.json, "json", false, "print lines of JSON")
}

// declareRead declares the options of read that tail has not.
func (sel *selection) declareRead(fs *flag.FlagSet) {
	sel.declare(fs)
	fs.BoolVar(&sel.backwards, "backwards", false, "print the latest message first; -from and -after go back from there")
	fs.Func("since", "start with the messages of a `TIME`, such as 2026-11-23T09:30:00Z, or with those of the last 90s, 15m or 24h", func(given string) error {
		t, err := parseTime(given)
		if err != nil {
			return errors.New("want a time such as 2026-11-23T09:30:00Z, or a duration such as 1h")
		}
		sel.since = &t
		return nil
	})
}

// parseTime returns a time, or the one that was a duration ago.
func parseTime(given string) (time.Time, error) {
	if d, err := time.ParseDuration(given); err == nil && d >= 0 {
		return time.Now().Add(-d), nil
	}
	return time.Parse(time.RFC3339, given)
}

// check turns the command's options into options of the library.
func (sel *selection) check(args []string) (err error) {
	if err := sel.checkNames(args); err != nil {
		return err
	}
	if sel.from != nil && sel.after != nil {
		return usage("-from and -after exclude each other")
	}
	if sel.last > 0 && !sel.unpositioned() {
		return usage("-n excludes -from and -after")
	}
	if sel.limit > 0 && sel.limit < mdb.DefaultBatchSize && !sel.filters() {
		size := mdb.WithBatchSize(int(sel.limit))
		sel.add(size)
	}
	if sel.from != nil {
		sel.startAt(mdb.FromPosition(*sel.from), mdb.FromGlobalPosition(*sel.from))
	}
	if sel.after != nil {
		sel.startAt(mdb.AfterPosition(*sel.after), mdb.AfterGlobalPosition(*sel.after))
	}
	if sel.since != nil && (sel.backwards || !sel.unpositioned()) {
		return usage("-since excludes -from, -after and -backwards")
	}
	if sel.backwards {
		sel.add(mdb.Backwards())
	}
	if sel.since != nil {
		sel.add(mdb.Since(*sel.since))
	}
	if sel.isAll() && sel.group != "" {
		return usage("-group needs one category")
	}
	if !sel.isCategory() && (sel.correlation != "" || sel.group != "") {
		return usage("-correlation and -group need a category, got the stream %q", string(sel.name))
	}
	if sel.correlation != "" {
		of, err := name(sel.correlation)
		if err != nil {
			return err
		}
		sel.category = append(sel.category, mdb.WithCorrelation(of.Category()))
	}
	if sel.group != "" {
		memberText, sizeText, _ := strings.Cut(sel.group, "/")
		member, memberErr := strconv.Atoi(memberText)
		size, sizeErr := strconv.Atoi(sizeText)
		if memberErr != nil || sizeErr != nil {
			return usage("-group: want MEMBER/SIZE, such as 0/3, got %q", sel.group)
		}
		sel.category = append(sel.category, mdb.AsConsumerGroup(member, size))
	}
	return nil
}

// checkNames checks the arguments.
func (sel *selection) checkNames(args []string) (err error) {
	if sel.all || len(args) > 1 {
		if sel.all {
			if _, err := exactly(args); err != nil {
				return err
			}
		}
		for _, arg := range args {
			n, err := name(arg)
			if err != nil {
				return err
			}
			if strings.Contains(arg, "-") {
				return usage("several names must be those of categories, got the stream %q", arg)
			}
			sel.some = append(sel.some, n.Category())
		}
		if sel.some != nil {
			sel.every = append(sel.every, mdb.InCategories(sel.some...))
		}
		sel.addTypes()
		return nil
	}
	if args, err = exactly(args, "STREAM|CATEGORY"); err != nil {
		return err
	}
	if sel.name, err = name(args[0]); err == nil && sel.isCategory() {
		sel.every = append(sel.every, mdb.InCategories(sel.name.Category()))
		sel.addTypes()
	}
	return err
}

// addTypes adds the types to the options of a read of several categories, which are the only ones that the server selects by type.
func (sel *selection) addTypes() {
	switch {
	case sel.types != nil:
		sel.every = append(sel.every, mdb.OfTypes(sel.types...))
	case sel.typ != "":
		sel.every = append(sel.every, mdb.OfTypes(sel.typ))
	}
}

// add adds an option to those of all kinds of reads.
func (sel *selection) add(opt mdb.ReadOption) {
	sel.stream, sel.category, sel.every = append(sel.stream, opt), append(sel.category, opt), append(sel.every, opt)
}

// startAt adds a position to the options of the reads that it is for.
func (sel *selection) startAt(inStream mdb.StreamOption, global mdb.GlobalOption) {
	sel.stream, sel.category, sel.every = append(sel.stream, inStream), append(sel.category, global), append(sel.every, global)
}

// isAll reports whether several categories are read, or all.
func (sel *selection) isAll() bool { return sel.all || sel.some != nil }

// isCategory decides by the name, as the server does.
func (sel *selection) isCategory() bool {
	return !strings.Contains(string(sel.name), "-")
}

// unpositioned reports whether no position is given.
func (sel *selection) unpositioned() bool { return sel.from == nil && sel.after == nil }

// filters reports whether messages are left out that the library returns.
func (sel *selection) filters() bool {
	if sel.correlation != "" || sel.types != nil && sel.typ != "" {
		return true
	}
	return (sel.types != nil || sel.typ != "") && !sel.isAll() && !sel.likeAll()
}

// likeAll reports whether a category is read as one of several, so that the server selects by type. Forwards, such a read waits for
// transactions of other categories, and needs a primary.
func (sel *selection) likeAll() bool {
	return sel.isCategory() && sel.backwards && sel.correlation == "" && sel.group == "" && (sel.types != nil || sel.typ != "")
}

// selects reports whether the message is selected, of those that the library returns.
func (sel *selection) selects(m *mdb.Message) bool {
	if sel.typ != "" && m.Type != sel.typ || sel.types != nil && !slices.Contains(sel.types, m.Type) {
		return false
	}
	return sel.correlation == "" || correlated(m, mdb.StreamName(sel.correlation))
}

// correlated reports whether the message's correlation stream is the given one, or of the given category.
func correlated(m *mdb.Message, with mdb.StreamName) bool {
	var metadata struct {
		Stream mdb.StreamName `json:"correlationStreamName"`
	}
	if m.DecodeMetadata(&metadata) != nil {
		return false
	}
	return metadata.Stream == with || string(metadata.Stream.Category()) == string(with)
}

var errEnough = errors.New("the limit is reached")

// print prints the message if it is selected. It returns errEnough after the last one.
func (sel *selection) print(p *printer, m mdb.Message) error {
	if !sel.selects(&m) {
		return nil
	}
	if err := p.message(m); err != nil {
		return err
	}
	if sel.printed++; sel.printed == sel.limit {
		return errEnough
	}
	return nil
}
