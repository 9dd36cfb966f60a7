package mdb

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/scan"
)

// readAll calls read, and then reads to the end of the rows, where the server reports
// whether the statement succeeded. A row alone does not prove that, nor does one that cannot
// be decoded prove the opposite.
func readAll(rows pgx.Rows, err error, read func(pgx.Rows) error) error {
	if err != nil {
		return err
	}
	defer rows.Close()
	err = read(rows)
	if err != nil && rows.Err() != nil {
		return err
	}
	rows.Close()
	if rows.Err() == nil && err != nil {
		return &unreadableError{err}
	}
	return rows.Err()
}

// scanRow scans a row. After an error, pgx takes that for the error of the rows.
func scanRow(rows pgx.Rows, destinations ...any) error {
	if err := rows.Scan(destinations...); err != nil {
		return &unreadableError{err}
	}
	return nil
}

func messagesInto(messages *[]Message) func(pgx.Rows) error {
	return func(rows pgx.Rows) (err error) {
		*messages, err = readMessages(rows, new(pageRead))
		return err
	}
}

// readMessages reads all rows. The page copies the bytes of a row before pgx overwrites
// them with the next one. After an error, arrived is the number of rows before it. If it is
// an error of the statement or the connection, their messages are returned with it. The first
// row of an inclusive read is left out if it is in the anchor's place. Rows after the first that
// does not fit into the page are not decoded: the caller reads to their end.
func readMessages(rows pgx.Rows, r *pageRead) ([]Message, error) {
	page := scan.NewPage()
	defer page.Release()
	for first := true; rows.Next(); first = false {
		if first {
			if err := describe(page, rows); err != nil {
				return nil, err
			}
			if r.inclusive {
				if skip, err := r.isAnchor(page, rows.RawValues()); err != nil {
					return nil, err
				} else if skip {
					continue
				}
			}
		}
		if r.cut = !r.fits(page.Len(), rows.RawValues()); r.cut {
			break
		}
		if err := page.Add(rows.RawValues()); err != nil {
			return nil, err
		}
		r.arrived = page.Len()
	}
	if page.Len() == 0 {
		return nil, rows.Err()
	}
	messages := make([]Message, page.Len())
	for i := range messages {
		row := page.Row(i)
		messages[i] = Message{
			ID:             row.ID,
			Stream:         StreamName(row.Stream),
			Type:           row.Type,
			Position:       row.Position,
			GlobalPosition: row.GlobalPosition,
			Time:           row.Time,
			Data:           json.RawMessage(row.Data),
			Metadata:       json.RawMessage(row.Metadata),
		}
	}
	return messages, rows.Err()
}

// describe passes the columns of the rows to the page.
func describe(page *scan.Page, rows pgx.Rows) error {
	fields := rows.FieldDescriptions()
	if err := page.Begin(len(fields)); err != nil {
		return err
	}
	for i := range fields {
		if err := page.Column(i, fields[i].Name, fields[i].DataTypeOID, fields[i].Format); err != nil {
			return err
		}
	}
	return nil
}

// one returns a function that scans a single row into the destinations.
func one(destinations ...any) func(pgx.Rows) error {
	return func(rows pgx.Rows) error {
		for rows.Next() {
			if err := scanRow(rows, destinations...); err != nil {
				return err
			}
		}
		return rows.Err()
	}
}

// number returns a function that reads a single integer. NULL leaves n unchanged.
func number(n *int64) func(pgx.Rows) error {
	return func(rows pgx.Rows) (err error) {
		for rows.Next() {
			fields, values := rows.FieldDescriptions(), rows.RawValues()
			if len(fields) != 1 || len(values) != 1 {
				return fmt.Errorf("got rows with %d columns, want 1", len(fields))
			}
			if values[0] == nil {
				continue
			}
			if *n, err = integer(fields[0].Format, values[0]); err != nil {
				return err
			}
		}
		return rows.Err()
	}
}

// drain reads rows and ignores them.
func drain(rows pgx.Rows) error {
	for rows.Next() {
		continue
	}
	return rows.Err()
}

// integer decodes a bigint, or the integer that another version of the store may have,
// without an allocation for each value.
func integer(format int16, value []byte) (int64, error) {
	if format == pgx.TextFormatCode {
		return strconv.ParseInt(string(value), 10, 64)
	}
	switch len(value) {
	case 4:
		return int64(int32(binary.BigEndian.Uint32(value))), nil
	case 8:
		return int64(binary.BigEndian.Uint64(value)), nil
	}
	return 0, fmt.Errorf("got an integer of %d bytes, want 4 or 8", len(value))
}
