package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/archive"
)

var exportCommand = command{
	name:  "export",
	args:  []string{"[FILE]"},
	short: "write messages as lines of JSON, for an archive or another store",
	long: `Writes the messages of the store, or of some categories, as lines of JSON to a new file or to the
standard output, in the order of global positions. It ends at the last message that is there
when it begins, and says up to which global position it has exported.

With -resume, it appends to the file what comes after the last message in it: the rest of an
export that was interrupted, or what has been written since. Give the same categories again.

Data and metadata are as PostgreSQL prints jsonb. Import reads the lines, and so does "write
-lines", of one stream. An export needs the privilege to read the table, which the role
message_store has, and a primary.`,
	examples: `mdb export archive.jsonl
mdb export -resume archive.jsonl
mdb export -category account -category order | gzip > archive.jsonl.gz
mdb export -after 2 > new.jsonl`,
	setup: func(fs *flag.FlagSet) action {
		var e exporting
		fs.Func("category", "only messages of this `CATEGORY`; can be repeated", func(given string) error {
			c, err := category(given)
			e.Categories = append(e.Categories, c)
			return err
		})
		numberFlag(fs, "after", "begin after this global `POSITION`", func(n int64) { e.after, e.After = true, n })
		fs.BoolVar(&e.resume, "resume", false, "append to the file what follows its last message")
		return e.run
	},
}

// category returns the value of an option for a category.
func category(given string) (mdb.Category, error) {
	n, err := nameOption(given)
	switch {
	case err != nil:
		return "", err
	case given == "" || n.Category() != mdb.Category(n):
		return "", fmt.Errorf("want a category, got %q", given)
	}
	return n.Category(), nil
}

// exporting is the options of export.
type exporting struct {
	archive.ExportOptions

	after, resume bool
}

func (e *exporting) run(ctx context.Context, a *app, args []string) error {
	file, err := atMostOne(args, "FILE")
	switch {
	case err != nil:
		return err
	case e.resume && file == "":
		return usage("-resume needs a FILE")
	case e.resume && e.after:
		return usage("-resume and -after exclude each other")
	case e.After < 0:
		return usage("-after: want a position, at least 0")
	case file == "":
		return a.withStore(ctx, func(s *mdb.Store) error {
			done, err := e.export(ctx, a, s, a.stdout)
			if err == nil {
				_, _ = fmt.Fprint(a.stderr, "mdb: ", exportedText(done)) // the standard output has the messages
			}
			return err
		})
	}
	return a.withStore(ctx, func(s *mdb.Store) (err error) {
		f, err := e.open(file)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, f.Close()) }()
		done, err := e.export(ctx, a, s, f)
		if err == nil {
			err = f.Sync()
		}
		switch {
		case err == nil:
			return a.say("%s", exportedText(done))
		case done.Messages == 0 && !e.resume:
			return errors.Join(err, os.Remove(file)) // it is empty
		}
		return fmt.Errorf("%w; -resume continues the file", err)
	})
}

func exportedText(done archive.Exported) string {
	return fmt.Sprintf("exported %s, up to global position %d\n", counted(done.Messages, "message"), done.Final)
}

// open creates the file or, with -resume, continues it.
func (e *exporting) open(name string) (*os.File, error) {
	if !e.resume {
		f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600) //nolint:gosec // the user's file
		if errors.Is(err, fs.ErrExist) {
			return nil, usage("the file %s exists; -resume appends to it", name)
		}
		return f, err
	}
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600) //nolint:gosec // the user's file
	if err != nil {
		return nil, err
	}
	if e.After, err = archive.Resume(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func (e *exporting) export(ctx context.Context, a *app, s *mdb.Store, w io.Writer) (archive.Exported, error) {
	bar := a.progress()
	defer bar.end()
	begin := e.After
	e.Progress = func(done archive.Exported) {
		bar.show(share(done.Position-begin, done.Final-begin), counted(done.Messages, "message"))
	}
	done, err := archive.Export(ctx, s, w, e.ExportOptions)
	if err == nil && done.Messages == 0 && !e.resume {
		err = nothing("no messages found")
	}
	return done, err
}
