"""How the store scales: one measurement a module, and a model beside them."""
