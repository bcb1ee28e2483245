// Reads a list of plants and writes it as JSON.
package main

import (
	"encoding/json"
	"fmt"
	"os"

	"example/plants"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: plants LIST OUTPUT")
		os.Exit(2)
	}
	if err := convert(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func convert(from, to string) error {
	list, err := os.Open(from)
	if err != nil {
		return err
	}
	defer list.Close()
	beds, err := plants.Read(list)
	if err != nil {
		return err
	}
	text, err := json.MarshalIndent(beds, "", "  ")
	if err != nil {
		return err
	}
	fmt.Println(len(beds), "beds")
	return os.WriteFile(to, append(text, '\n'), 0o644)
}
