package main

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path"
	"strings"
	"syscall"
	"time"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// What VIX calls it when a disk can't be opened: the file is missing, it can't be accessed, it is open elsewhere, the
// login is wrong.
const noFile, noAccess, locked, login = 4, 7, 15, 3014

// lend gives the stand-in of VMware's library (../vddk) the bytes of a disk: by the same words as the other stand-in of
// a host (../lease.py, which says more), from the file that vcsim has made for the disk. It keeps no deltas, so every
// snapshot shows the VM's own file.
func lend(answer http.ResponseWriter, request *http.Request) {
	body, _ := io.ReadAll(request.Body)
	wish := strings.Split(string(body), "\n")
	if len(wish) < 6 || wish[0] != *user || wish[1] != *password {
		refuse(answer, login, "incorrect user name or password")
		return
	}
	if wish[4] == "" {
		return
	}
	file, size, err := extent(wish[2], wish[4])
	if err != nil {
		refuse(answer, noFile, err.Error())
		return
	}
	server, socket, err := serve(file, wish[5] == "read")
	if err != nil {
		code := noAccess
		if strings.Contains(err.Error(), "lock") {
			code = locked
		}
		refuse(answer, code, fmt.Sprintf("%s: %v", wish[4], err))
		return
	}
	defer end(server)
	// The library says nothing more; its connection ends when it closes the disk, or dies.
	connection, buffer, err := answer.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	defer connection.Close()
	text := fmt.Sprintf("%s\n%d\n1\n", socket, size)
	fmt.Fprintf(buffer, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(text), text)
	_ = buffer.Flush()
	_, _ = io.Copy(io.Discard, buffer)
	end(server)
}

func refuse(answer http.ResponseWriter, code int, why string) {
	text := fmt.Sprintf("%d\n%s\n", code, why)
	answer.Header().Set("Content-Length", fmt.Sprint(len(text)))
	answer.WriteHeader(http.StatusForbidden)
	fmt.Fprint(answer, text)
}

// extent returns the file that holds a disk's bytes, as long as the disk is: vcsim makes it empty.
func extent(machine, disk string) (string, int64, error) {
	var place object.DatastorePath
	place.FromString(disk)
	store, found := simulator.Map.Any("Datastore").(*simulator.Datastore)
	if !found {
		return "", 0, fmt.Errorf("there is no datastore")
	}
	descriptor := path.Join(store.Info.GetDatastoreInfo().Url, place.Path)
	if _, err := os.Stat(descriptor); err != nil {
		return "", 0, fmt.Errorf("%s: a file was not found", disk)
	}
	file := strings.TrimSuffix(descriptor, ".vmdk") + "-flat.vmdk"
	about, err := os.Stat(file)
	if err != nil {
		return "", 0, fmt.Errorf("%s: a file was not found", disk)
	}
	size := max(capacity(machine, disk), about.Size())
	return file, size, os.Truncate(file, size)
}

// capacity returns the bytes that a VM's disk was made with; 0 for a file that was attached as it was.
func capacity(machine, disk string) int64 {
	reference := types.ManagedObjectReference{Type: "VirtualMachine", Value: machine}
	vm, found := simulator.Map.Get(reference).(*simulator.VirtualMachine)
	if !found {
		return 0
	}
	for _, device := range vm.Config.Hardware.Device {
		each, is := device.(*types.VirtualDisk)
		if is && each.Backing.(types.BaseVirtualDeviceFileBackingInfo).GetVirtualDeviceFileBackingInfo().FileName == disk {
			return max(each.CapacityInBytes, each.CapacityInKB*1024)
		}
	}
	return 0
}

func max(one, other int64) int64 {
	if one > other {
		return one
	}
	return other
}

// serve starts a qemu-nbd of a file, and returns it and its socket when it takes connections.
func serve(file string, readOnly bool) (*exec.Cmd, string, error) {
	random := make([]byte, 6)
	_, _ = rand.Read(random)
	socket := path.Join(os.TempDir(), hex.EncodeToString(random))
	words := []string{"--persistent", "--format=raw", "--socket=" + socket, "--pid-file=" + socket + ".pid"}
	if readOnly {
		words = append(words, "--read-only")
	}
	server := exec.Command("qemu-nbd", append(words, file)...)
	said := new(bytes.Buffer)
	server.Stderr = said
	server.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := server.Start(); err != nil {
		return nil, "", err
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Wait() }()
	for {
		// The pid file is written when the socket takes connections.
		if _, err := os.Stat(socket + ".pid"); err == nil {
			return server, socket, nil
		}
		select {
		case <-ended:
			return nil, "", errors.New(strings.TrimSpace(said.String()))
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// end ends a server, and returns when it has let go of its file; may be called twice.
func end(server *exec.Cmd) {
	_ = server.Process.Signal(syscall.SIGTERM)
	for server.Process.Signal(syscall.Signal(0)) == nil {
		time.Sleep(5 * time.Millisecond)
	}
}

// disks is vcsim's manager of disks, with the method that Debian's version of it lacks.
type disks struct {
	*simulator.VirtualDiskManager
}

// ExtendVirtualDiskTask makes a disk longer.
func (*disks) ExtendVirtualDiskTask(request *types.ExtendVirtualDisk_Task) soap.HasFault {
	manager := simulator.Map.Get(request.This).(*disks)
	task := simulator.CreateTask(manager, "extendVirtualDisk", func(*simulator.Task) (types.AnyType, types.BaseMethodFault) {
		file, _, err := extent("", request.Name)
		if err == nil {
			err = os.Truncate(file, request.NewCapacityKb*1024)
		}
		if err != nil {
			return nil, &types.FileNotFound{FileFault: types.FileFault{File: request.Name}}
		}
		return nil, nil
	})
	return &methods.ExtendVirtualDisk_TaskBody{Res: &types.ExtendVirtualDisk_TaskResponse{Returnval: task.Run()}}
}

// complete gives a model what it lacks.
func complete(model *simulator.Model) {
	simulator.Map.Put(&disks{simulator.Map.VirtualDiskManager().(*simulator.VirtualDiskManager)})
	model.Service.HandleFunc("/disk", lend)
}
