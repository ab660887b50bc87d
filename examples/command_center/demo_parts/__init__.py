"""What `demo.py` is made of: processes, the receiver, what arrived where, the account of it, and how it is shown."""
