//go:build unix

package main

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/archive"
)

const (
	finished = ".jsonl.gz"
	partial  = finished + ".partial"

	// memberSize is how many bytes of lines become a member of a file, unless it is written before. Small ones compress badly.
	memberSize = 1 << 20
)

// A folder has the files of a category. The name of each begins with the global position of its first message, so they are in the
// order of the messages. The last one may be unfinished, which its name says.
//
// A file consists of gzip members, each with whole lines, which gunzip reads as one. A member is written and synced as a whole. So
// whenever the program is killed, at most the last member is incomplete. It is cut off, and its messages are read from the store again.
type folder struct {
	path       string
	size       int64
	lock       *os.File
	checkpoint mdb.CategoryCheckpoint // where the files end when they are opened

	mu      sync.Mutex
	file    *os.File // the unfinished one, or nil
	written int64    // its size
	day     string   // of its first message, or of the first of lines if there is no file
	first   int64    // the global position of the first of lines
	lines   []byte   // not yet written
}

// openFolder prepares a folder for more messages.
func openFolder(path string, category mdb.Category, size int64) (_ *folder, err error) {
	if err := os.MkdirAll(path, 0o750); err != nil {
		return nil, err
	}
	d := &folder{path: path, size: size}
	defer func() {
		if err != nil {
			d.close()
		}
	}()
	if d.lock, err = os.OpenFile(filepath.Join(path, ".lock"), os.O_RDWR|os.O_CREATE, 0o600); err != nil { //nolint:gosec // the user's folder
		return nil, err
	}
	// The lock ends with the process, however it ends.
	if err := syscall.Flock(int(d.lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, fmt.Errorf("another program archives into %s: %w", path, err)
	}
	err = d.resume(category)
	return d, err
}

// resume finds the end of the files.
func (d *folder) resume(category mdb.Category) error {
	complete, err1 := filepath.Glob(filepath.Join(d.path, "*"+finished))
	incomplete, err2 := filepath.Glob(filepath.Join(d.path, "*"+partial))
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	switch {
	case len(incomplete) > 1 || len(incomplete) == 1 && len(complete) > 0 && incomplete[0] < complete[len(complete)-1]:
		return fmt.Errorf("%s contains an unfinished file that is not the last one: %s", d.path, incomplete[0])
	case len(incomplete) == 1:
		if err := d.reopen(incomplete[0], category); err != nil || d.file != nil {
			return err
		}
	}
	if len(complete) == 0 {
		return nil
	}
	last := complete[len(complete)-1]
	end, err := readFile(last, category)
	if err == nil && end.cut {
		err = damaged(last, end.whole, errors.New("it is incomplete"))
	}
	d.checkpoint = end.checkpoint
	return err
}

// reopen opens the unfinished file, after it has cut off what is incomplete. If nothing is left, it removes the file.
func (d *folder) reopen(name string, category mdb.Category) error {
	end, err := readFile(name, category)
	if err != nil {
		return err
	}
	if end.whole == 0 {
		return errors.Join(os.Remove(name), d.sync())
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND, 0) //nolint:gosec // a file of the folder
	if err != nil {
		return err
	}
	if err := errors.Join(f.Truncate(end.whole), f.Sync()); err != nil {
		return errors.Join(err, f.Close())
	}
	d.file, d.written, d.checkpoint = f, end.whole, end.checkpoint
	d.day = filepath.Base(name)[positionDigits+1:][:len(time.DateOnly)]
	return nil
}

const positionDigits = 19

// add adds a message, which is in memory until flush is called or there are enough of them.
func (d *folder) add(m *mdb.Message) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	day := m.Time.UTC().Format(time.DateOnly)
	if d.day != "" && day > d.day {
		if err := d.finish(); err != nil {
			return err
		}
	}
	if d.day == "" {
		d.day = day
	}
	if len(d.lines) == 0 {
		d.first = m.GlobalPosition
	}
	if d.lines = archive.AppendMessage(d.lines, m); len(d.lines) >= memberSize {
		return d.write()
	}
	return nil
}

// flush writes what is in memory, and finishes a file whose day has ended.
func (d *folder) flush(now time.Time) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.day != "" && d.day < now.UTC().Format(time.DateOnly) {
		return d.finish()
	}
	return d.write()
}

// finish finishes the file.
func (d *folder) finish() error {
	if err := d.write(); err != nil || d.file == nil {
		return err
	}
	name := d.file.Name()
	if err := d.file.Close(); err != nil {
		return err
	}
	d.file, d.written, d.day = nil, 0, ""
	if err := os.Rename(name, name[:len(name)-len(partial)]+finished); err != nil {
		return err
	}
	return d.sync()
}

// write writes a member, and finishes the file if it has become large enough.
func (d *folder) write() error {
	if len(d.lines) == 0 {
		return nil
	}
	var member bytes.Buffer
	z := gzip.NewWriter(&member)
	_, err := z.Write(d.lines)
	if err := errors.Join(err, z.Close()); err != nil {
		return err
	}
	if d.file == nil {
		if err := d.begin(); err != nil {
			return err
		}
	}
	if _, err := d.file.Write(member.Bytes()); err != nil {
		return err
	}
	if err := d.file.Sync(); err != nil {
		return err
	}
	d.written += int64(member.Len())
	d.lines = d.lines[:0]
	if d.written >= d.size {
		return d.finish()
	}
	return nil
}

// begin begins a file.
func (d *folder) begin() (err error) {
	name := filepath.Join(d.path, fmt.Sprintf("%0*d-%s%s", positionDigits, d.first, d.day, partial))
	if d.file, err = os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL|os.O_APPEND, 0o600); err != nil { //nolint:gosec // a file of the folder
		return err
	}
	return d.sync()
}

// sync makes the names of the files durable.
func (d *folder) sync() error {
	f, err := os.Open(d.path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// close writes nothing: what is in memory is read from the store again.
func (d *folder) close() {
	for _, f := range []*os.File{d.file, d.lock} {
		if f != nil {
			_ = f.Close()
		}
	}
}
